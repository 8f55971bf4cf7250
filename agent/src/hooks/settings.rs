//! `[hooks]` of the agent's configuration file.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{Kind, OnFailure};

/// Where hooks are, unless told otherwise.
pub const DEFAULT_DIRECTORY: &str = "/etc/azdr/hooks.d";
/// Seconds that one verb may be given.
pub const LIMIT_RANGE_SECS: RangeInclusive<u64> = 1..=300;
/// Seconds that a `check` may be given: whoever asks for it waits.
pub const CHECK_RANGE_SECS: RangeInclusive<u64> = 1..=30;
/// Seconds that all hooks of an operation may be given before it.
pub const TOTAL_RANGE_SECS: RangeInclusive<u64> = 1..=600;

/// The table `[hooks]`. Unknown fields are refused.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Directory of the hooks. That it is missing means that there are none.
    pub directory: PathBuf,
    /// Configuration file of Azure Backup's scripts; not read unless given.
    pub azure_scripts: Option<PathBuf>,
    /// For `pre`: 1 to 300, default 30.
    pub pre_limit_secs: u64,
    /// For `post` or `abort`: 1 to 300, default 60.
    pub post_limit_secs: u64,
    /// For `check`: 1 to 30, default 10.
    pub check_limit_secs: u64,
    /// For all `pre` of an operation together, and for all `post`: 1 to 600, default 120.
    pub total_limit_secs: u64,
    /// `"crash_consistent"` (default) or `"fail"`.
    pub on_failure: OnFailure,
    /// `[hooks.each.NAME]`: what is special about one of them.
    pub each: BTreeMap<String, Each>,
}

/// The table `[hooks.each.NAME]`: replaces, for one hook, what it says of itself and what `[hooks]` says.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Each {
    /// `"oneshot"` or `"hold"`; without it the file's own `# azdr-hook:` line says, else `oneshot`.
    pub kind: Option<Kind>,
    /// Whether its success makes a backup `application` consistent; without it the file's line says.
    pub application: Option<bool>,
    /// Whether it has a `check`; without it the file's line says.
    pub check: Option<bool>,
    /// For its `pre`.
    pub pre_limit_secs: Option<u64>,
    /// For its `post` or `abort`.
    pub post_limit_secs: Option<u64>,
    /// For its `check`.
    pub check_limit_secs: Option<u64>,
    /// What becomes of the operation when it fails.
    pub on_failure: Option<OnFailure>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            directory: DEFAULT_DIRECTORY.into(),
            azure_scripts: None,
            pre_limit_secs: 30,
            post_limit_secs: 60,
            check_limit_secs: 10,
            total_limit_secs: 120,
            on_failure: OnFailure::CrashConsistent,
            each: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Checks all values.
    ///
    /// # Errors
    /// Names the field, its value and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let refuse = |field: &str, value: &dyn std::fmt::Debug, allowed: &str| {
            Err(format!("field `hooks.{field}`: {value:?} is not allowed: {allowed}"))
        };
        let absolute = "must be an absolute path without `.` and `..`";
        if !super::checked_file::is_plain(&self.directory) {
            return refuse("directory", &self.directory, absolute);
        }
        if let Some(path) = &self.azure_scripts
            && !super::checked_file::is_plain(path)
        {
            return refuse("azure_scripts", path, absolute);
        }
        let seconds = |field: String, value: u64, range: RangeInclusive<u64>| {
            if range.contains(&value) {
                return Ok(());
            }
            refuse(&field, &value, &format!("must be {} to {}", range.start(), range.end()))
        };
        seconds("pre_limit_secs".to_owned(), self.pre_limit_secs, LIMIT_RANGE_SECS)?;
        seconds("post_limit_secs".to_owned(), self.post_limit_secs, LIMIT_RANGE_SECS)?;
        seconds("check_limit_secs".to_owned(), self.check_limit_secs, CHECK_RANGE_SECS)?;
        seconds("total_limit_secs".to_owned(), self.total_limit_secs, TOTAL_RANGE_SECS)?;
        for (name, each) in &self.each {
            if let Err(rule) = super::installed::check_name(name)
                && name != super::azure_scripts::NAME
            {
                return refuse("each", name, rule);
            }
            for (field, value, range) in [
                ("pre_limit_secs", each.pre_limit_secs, LIMIT_RANGE_SECS),
                ("post_limit_secs", each.post_limit_secs, LIMIT_RANGE_SECS),
                ("check_limit_secs", each.check_limit_secs, CHECK_RANGE_SECS),
            ] {
                if let Some(value) = value {
                    seconds(format!("each.{name:?}.{field}"), value, range)?;
                }
            }
            if name == super::azure_scripts::NAME && each.check == Some(true) {
                let no_verbs = "must be false or absent: Azure Backup's scripts know no verbs";
                return refuse(&format!("each.{name}.check"), &true, no_verbs);
            }
        }
        Ok(())
    }

    /// For all `pre` of an operation together, and for all `post`.
    pub(super) fn total_limit(&self) -> Duration {
        Duration::from_secs(self.total_limit_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<Settings, String> {
        let settings: Settings = toml::from_str(text).map_err(|error| error.to_string())?;
        settings.check().map(|()| settings)
    }

    #[test]
    fn without_a_word_the_defaults_hold() {
        let settings = checked("").unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(
            (settings.pre_limit_secs, settings.post_limit_secs, settings.total_limit_secs),
            (30, 60, 120)
        );
        assert_eq!(settings.check_limit_secs, 10);
        assert_eq!(settings.on_failure, OnFailure::CrashConsistent);
        assert_eq!(settings.azure_scripts, None, "nobody's scripts are run unasked");
    }

    #[test]
    fn one_hook_can_be_special() {
        let text = "on_failure = 'fail'\n[each.\"10-db\"]\nkind = 'hold'\napplication = true\n\
                    pre_limit_secs = 5\non_failure = 'crash_consistent'";
        let settings = checked(text).unwrap();
        let each = settings.each.get("10-db").unwrap();
        assert_eq!(each.kind, Some(Kind::Hold));
        assert_eq!(each.on_failure, Some(OnFailure::CrashConsistent));
        assert_eq!((each.pre_limit_secs, each.post_limit_secs), (Some(5), None));
    }

    #[test]
    fn errors_name_the_field_the_value_and_what_is_allowed() {
        for (text, parts) in [
            ("directory = 'hooks'", ["`hooks.directory`", "\"hooks\"", "absolute"]),
            ("directory = '/etc/../x'", ["`hooks.directory`", "\"/etc/../x\"", "`..`"]),
            ("azure_scripts = 'x'", ["`hooks.azure_scripts`", "\"x\"", "absolute"]),
            ("pre_limit_secs = 0", ["`hooks.pre_limit_secs`", "0", "1 to 300"]),
            ("post_limit_secs = 301", ["`hooks.post_limit_secs`", "301", "1 to 300"]),
            ("total_limit_secs = 601", ["`hooks.total_limit_secs`", "601", "1 to 600"]),
            ("check_limit_secs = 31", ["`hooks.check_limit_secs`", "31", "1 to 30"]),
            (
                "[each.azure-scripts]\ncheck = true",
                ["`hooks.each.azure-scripts.check`", "true", "false or absent"],
            ),
            ("on_failure = 'ignore'", ["ignore", "fail", "crash_consistent"]),
            ("directry = '/x'", ["directry", "directory", "azure_scripts"]),
            ("[each.\"$(reboot)\"]", ["`hooks.each`", "$(reboot)", "NN-name"]),
            (
                "[each.\"10-db\"]\npre_limit_secs = 999",
                ["`hooks.each.\"10-db\".pre_limit_secs`", "999", "1 to 300"],
            ),
            ("[each.\"10-db\"]\nkind = 'daemon'", ["daemon", "oneshot", "hold"]),
        ] {
            let error = checked(text).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{error:?} lacks {part:?}");
            }
        }
    }
}
