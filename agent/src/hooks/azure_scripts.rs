//! The scripts of Azure Backup's configuration file, `VMSnapshotScriptPluginConfig.json`, as one hook.
//!
//! The file's format is Azure's; the rules are ours: what may be run, how long, and what its failure
//! means (`docs/hooks.md` has the table). Its post-script is run for `abort` as well: it is what undoes
//! the pre-script.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::checked_file::{self, Want};
use super::installed::{self, Declared, Found};
use super::settings::{LIMIT_RANGE_SECS, Settings};
use super::{Kind, OnFailure, Program};

/// The hook's name.
pub(super) const NAME: &str = "azure-scripts";
const MAX_FILE: u64 = 64 * 1024;
const MAX_ARGUMENTS: usize = 24;
const DEFAULT_TIMEOUT_SECS: u64 = 30;

/// The file. What Azure's own reader does not know is refused: it may be a field misspelt.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    pre_script_location: PathBuf,
    post_script_location: PathBuf,
    #[serde(default)]
    pre_script_params: Vec<String>,
    #[serde(default)]
    post_script_params: Vec<String>,
    timeout_in_seconds: Option<u64>,
    continue_backup_on_failure: Option<bool>,
    fs_freeze_enabled: Option<bool>,
    // Read and without effect: Azure's runner counts them down but never starts a script again.
    #[serde(rename = "preScriptNoOfRetries")]
    _pre_retries: Option<u64>,
    #[serde(rename = "postScriptNoOfRetries")]
    _post_retries: Option<u64>,
    // About Azure's runner alone.
    #[serde(rename = "pluginName")]
    _plugin: Option<String>,
    #[serde(rename = "appName")]
    _application: Option<String>,
    #[serde(rename = "ScriptsExecutionPollTimeSeconds")]
    _poll: Option<u64>,
}

/// The hook that the file describes.
pub(super) fn find(settings: &Settings, path: &Path) -> Found {
    let refused = |why| Found { check: false, ..installed::refused(settings, NAME, why) };
    read(settings, path).unwrap_or_else(refused)
}

fn read(settings: &Settings, path: &Path) -> Result<Found, String> {
    let file = checked_file::open(path, Want::Private).map_err(|error| error.to_string())?;
    let place = path.display();
    let text = checked_file::read_start(&file, MAX_FILE + 1)
        .map_err(|error| format!("cannot read {place}: {error}"))?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("{place} is longer than {MAX_FILE} bytes"));
    }
    let file = parse(&text).map_err(|why| format!("{place}: {why}"))?;
    let program = |location: &Path, arguments: &[String]| {
        let file =
            checked_file::open(location, Want::Program).map_err(|error| error.to_string())?;
        let arguments = arguments.iter().map(|a| CString::new(a.as_str()).map_err(|_| ()));
        let arguments = arguments.collect::<Result<_, _>>().map_err(|()| "holds a NUL")?;
        let path = location.display().to_string();
        Ok::<_, String>(Program { file: Arc::new(file), path, arguments: Some(arguments) })
    };
    let pre = program(&file.pre_script_location, &file.pre_script_params)?;
    let post = program(&file.post_script_location, &file.post_script_params)?;
    let limit = Duration::from_secs(file.timeout_in_seconds.unwrap_or(DEFAULT_TIMEOUT_SECS));
    let on_failure = match file.continue_backup_on_failure {
        Some(false) => OnFailure::Fail,
        _ => OnFailure::CrashConsistent,
    };
    let own = Some((limit, on_failure));
    let declared = Declared { kind: Kind::Oneshot, application: true, check: false };
    Ok(installed::hook(settings, NAME, declared, pre, post, own)).and_then(refuse_hold)
}

/// Azure's scripts know nothing of READY.
fn refuse_hold(found: Found) -> Result<Found, String> {
    match &found.hook {
        Ok(hook) if hook.kind == Kind::Hold => {
            Err(format!("field `hooks.each.{NAME}.kind` must be \"oneshot\""))
        }
        _ => Ok(found),
    }
}

fn parse(text: &[u8]) -> Result<File, String> {
    let file: File = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let refuse = |field: &str, value: &dyn std::fmt::Debug, allowed: &str| {
        Err(format!("field `{field}`: {value:?} is not allowed: {allowed}"))
    };
    for (field, path) in [
        ("preScriptLocation", &file.pre_script_location),
        ("postScriptLocation", &file.post_script_location),
    ] {
        if !checked_file::is_plain(path) {
            return refuse(field, path, "must be an absolute path without `.` and `..`");
        }
    }
    for (field, arguments) in [
        ("preScriptParams", &file.pre_script_params),
        ("postScriptParams", &file.post_script_params),
    ] {
        if arguments.len() > MAX_ARGUMENTS {
            return refuse(field, &arguments.len(), "must be at most 24 texts");
        }
        if let Some(text) = arguments.iter().find(|text| text.contains('\0')) {
            return refuse(field, text, "must not contain NUL");
        }
    }
    if let Some(seconds) = file.timeout_in_seconds
        && !LIMIT_RANGE_SECS.contains(&seconds)
    {
        return refuse("timeoutInSeconds", &seconds, "must be 1 to 300");
    }
    if file.fs_freeze_enabled == Some(false) {
        return refuse(
            "fsFreezeEnabled",
            &false,
            "must be true: azdr takes no snapshot for scripts without a freeze",
        );
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it comes, with two scripts filled in.
    const AS_IT_COMES: &str = r#"{
        "pluginName" : "ScriptRunner",
        "preScriptLocation" : "/opt/pre.sh",
        "postScriptLocation" : "/opt/post.sh",
        "preScriptParams" : ["", "$(reboot)"],
        "postScriptParams" : [],
        "preScriptNoOfRetries" : 0,
        "postScriptNoOfRetries" : 2,
        "timeoutInSeconds" : 30,
        "continueBackupOnFailure" : true,
        "fsFreezeEnabled" : true,
        "ScriptsExecutionPollTimeSeconds" : 3
    }"#;

    #[test]
    fn azures_own_file_is_understood() {
        let file = parse(AS_IT_COMES.as_bytes()).unwrap();
        assert_eq!(file.pre_script_location, Path::new("/opt/pre.sh"));
        assert_eq!(file.pre_script_params, ["", "$(reboot)"]);
        assert_eq!(file.timeout_in_seconds, Some(30));
        let least = r#"{"preScriptLocation": "/a", "postScriptLocation": "/b"}"#;
        assert!(parse(least.as_bytes()).is_ok());
    }

    #[test]
    fn what_is_refused_is_named() {
        for (from, to, parts) in [
            ("\"/opt/pre.sh\"", "\"\"", ["`preScriptLocation`", "\"\"", "absolute"]),
            ("\"/opt/post.sh\"", "\"b.sh\"", ["`postScriptLocation`", "b.sh", "absolute"]),
            (": 30", ": 1800", ["`timeoutInSeconds`", "1800", "1 to 300"]),
            (": 30", ": \"30\"", ["string", "30", "u64"]),
            ("Enabled\" : true", "Enabled\" : false", ["`fsFreezeEnabled`", "false", "freeze"]),
            ("pluginName", "plugin", ["`plugin`", "pluginName", "line 2"]),
            ("postScriptLocation", "appName", ["missing", "`postScriptLocation`", "line"]),
            ("[]", "[1]", ["integer", "string", "line 6"]),
            ("$(reboot)", "\\u0000", ["`preScriptParams`", "NUL", "\\0"]),
        ] {
            let error = parse(AS_IT_COMES.replace(from, to).as_bytes()).map(|_| ()).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{error:?} lacks {part:?}");
            }
        }
    }
}
