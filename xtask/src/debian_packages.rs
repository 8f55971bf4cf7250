//! Debian packages, by way of the machine's own package manager.
//!
//! apt is pointed at a private folder: its sources are the machine's own Debian sources plus the
//! same archive's backports, and its index files and downloads are kept there too. So no mirror is
//! named here, the machine's configuration stays as it is, and downloading needs no root.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The host's programs that the lab needs, with the Debian package that has them.
const HOST_PROGRAMS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mke2fs", "e2fsprogs"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("ldd", "libc-bin"),
];

/// Installs what the lab needs and this machine lacks. Does nothing, and needs neither root nor a
/// network, when nothing is lacking. `folder` is where apt's private files go.
///
/// # Errors
/// When something is lacking and this is not root on Debian; the message says what to install.
pub(crate) fn ensure_host_packages(folder: &Path) -> Result<()> {
    let mut missing: Vec<&str> = HOST_PROGRAMS
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let wanted = missing.join(" ");
    install(folder, &missing).with_context(|| {
        format!(
            "the lab needs these Debian packages: {wanted}. Install them as root with `apt-get \
             install --no-install-recommends {wanted}`; on Debian 12 from bookworm-backports (`-t \
             bookworm-backports`) if qemu-utils came from there"
        )
    })
}

/// Installs the package of one program if it is lacking. `folder` is where apt's private files go.
///
/// # Errors
/// When it is lacking and this is not root on Debian.
pub(crate) fn ensure_program(program: &str, package: &str, folder: &Path) -> Result<()> {
    if find_program(program).is_some() {
        return Ok(());
    }
    install(folder, &[package]).with_context(|| format!("{package} is not installed"))
}

fn install(folder: &Path, packages: &[&str]) -> Result<()> {
    ensure!(is_root(), "this is not root");
    let apt = Apt::prepare(folder)?;
    apt.update()?;
    let mut command = apt.command("apt-get");
    command.args(["install", "--yes", "--no-install-recommends"]);
    if let Some(backports) = apt.backports_suite()? {
        // qemu-utils is often there from backports, and QEMU's packages must be of one version.
        command.args(["-t", &backports]);
    }
    run(command.args(packages))?;
    Ok(())
}

/// A program's path, looked up as root would: where file system tools live, too.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|p| p.is_file())
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    // SAFETY: a system call without arguments that cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started or fails; the message has what it wrote to stderr.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed ({}): {}", output.status, stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// apt with private sources, index files and cache.
pub(crate) struct Apt {
    folder: PathBuf,
    codename: String,
}

impl Apt {
    /// Writes the private sources; downloads nothing yet.
    ///
    /// # Errors
    /// When this is not Debian, or apt has no Debian sources.
    pub(crate) fn prepare(folder: &Path) -> Result<Self> {
        ensure!(find_program("apt-get").is_some(), "this machine has no apt-get");
        let release = fs::read_to_string("/etc/os-release").context("cannot read os-release")?;
        let codename = debian_codename(&release).context("this machine does not run Debian")?;
        let folder = std::path::absolute(folder)?;
        for sub in ["parts", "lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(sub))?;
        }
        let apt = Self { folder, codename: codename.clone() };
        let mut sources = vec![PathBuf::from("/etc/apt/sources.list")];
        for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten() {
            sources.push(entry?.path());
        }
        sources.sort();
        let (mut deb822, mut one_line) = (String::new(), String::new());
        for path in sources {
            match path.extension().and_then(OsStr::to_str) {
                Some("sources") => deb822 += &from_deb822(&fs::read_to_string(&path)?, &codename),
                // The old main file need not exist.
                Some("list") => {
                    let text = fs::read_to_string(&path).unwrap_or_default();
                    one_line += &from_one_line(&text, &codename);
                }
                _ => {}
            }
        }
        ensure!(
            !(deb822.is_empty() && one_line.is_empty()),
            "apt has no sources for Debian {codename}"
        );
        fs::write(apt.folder.join("parts/debian.sources"), deb822)?;
        fs::write(apt.folder.join("parts/debian.list"), one_line)?;
        Ok(apt)
    }

    /// Debian's code name of this machine's release.
    pub(crate) fn codename(&self) -> &str {
        &self.codename
    }

    /// The files with the private sources that name any.
    pub(crate) fn source_files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for name in ["parts/debian.sources", "parts/debian.list"] {
            let path = self.folder.join(name);
            if fs::metadata(&path)?.len() > 0 {
                files.push(path);
            }
        }
        Ok(files)
    }

    /// Fetches the archive's index files.
    pub(crate) fn update(&self) -> Result<()> {
        run(self.command("apt-get").args(["update", "--error-on=any"]))?;
        Ok(())
    }

    /// The packages that `package` depends on directly.
    pub(crate) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let listing = run(self.command("apt-cache").args(["depends", "--important", package]))?;
        let names = listing.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// Downloads packages, each into one `.deb` file, without installing anything.
    pub(crate) fn download(&self, packages: &[String], into: &Path) -> Result<()> {
        fs::create_dir_all(into)?;
        run(self.command("apt-get").current_dir(into).arg("download").args(packages))?;
        Ok(())
    }

    /// The backports suite among the private sources, if the machine's sources led to one.
    fn backports_suite(&self) -> Result<Option<String>> {
        let mut words = String::new();
        for file in ["parts/debian.sources", "parts/debian.list"] {
            words += &fs::read_to_string(self.folder.join(file))?;
        }
        Ok(words.split_whitespace().find(|word| word.ends_with("-backports")).map(str::to_owned))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let private = [
            ("Dir::Etc::SourceList", "/dev/null".into()),
            ("Dir::Etc::SourceParts", self.folder.join("parts")),
            ("Dir::State::Lists", self.folder.join("lists")),
            ("Dir::Cache", self.folder.join("cache")),
        ];
        for (key, value) in private {
            command.arg("-o").arg(format!("{key}={}", value.display()));
        }
        if is_root() {
            // Otherwise apt becomes a user who cannot write to our folder, and says so each time.
            command.args(["-o", "APT::Sandbox::User=root"]);
        }
        command.args(["-q", "-o", "Acquire::Languages=none"]);
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
        command
    }
}

/// Debian's code name from the text of os-release.
fn debian_codename(os_release: &str) -> Option<String> {
    let field = |name: &str| {
        let value = os_release.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.trim_matches('"').to_owned())
    };
    if field("ID")? == "debian" { field("VERSION_CODENAME") } else { None }
}

/// The Debian stanzas of a `.sources` file, with one for backports after each that has the release
/// itself.
fn from_deb822(text: &str, codename: &str) -> String {
    let without_comments: Vec<_> =
        text.lines().filter(|line| !line.starts_with('#')).map(str::trim_end).collect();
    let mut result = String::new();
    for stanza in without_comments.join("\n").split("\n\n") {
        let lines: Vec<_> = stanza.lines().filter(|line| !line.is_empty()).collect();
        let field = |name: &str| {
            let value = |line: &&str| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            };
            lines.iter().find_map(value).unwrap_or_default()
        };
        let suites = field("Suites");
        let wanted = suites.split_whitespace().any(|suite| is_of(suite, codename))
            && field("Types").split_whitespace().any(|kind| kind == "deb")
            && !field("Enabled").eq_ignore_ascii_case("no");
        if !wanted {
            continue;
        }
        let mut push = |suites: &str| {
            for line in &lines {
                let key = line.split(':').next().unwrap_or_default();
                if key.eq_ignore_ascii_case("Suites") {
                    result += &format!("Suites: {suites}\n");
                } else if key.eq_ignore_ascii_case("Types") {
                    result += "Types: deb\n";
                } else {
                    result += &format!("{line}\n");
                }
            }
            result += "\n";
        };
        push(&suites);
        if suites.split_whitespace().any(|suite| suite == codename) {
            push(&format!("{codename}-backports"));
        }
    }
    result
}

/// The Debian lines of a `.list` file, with one for backports after each that has the release
/// itself.
fn from_one_line(text: &str, codename: &str) -> String {
    let mut result = String::new();
    for line in text.lines() {
        // deb [options] URI suite components…
        let words: Vec<_> = line.split_whitespace().collect();
        let options_end = words.iter().position(|word| word.ends_with(']')).unwrap_or(0);
        let suite_at = options_end + 2;
        if words.first() != Some(&"deb") || words.len() <= suite_at {
            continue;
        }
        let suite = words[suite_at];
        if is_of(suite, codename) {
            result += &format!("{}\n", words.join(" "));
        }
        if suite == codename {
            let backports = format!("{codename}-backports");
            let mut words = words.clone();
            words[suite_at] = &backports;
            result += &format!("{}\n", words.join(" "));
        }
    }
    result
}

/// Whether a suite belongs to the release: `bookworm`, `bookworm-updates`, `bookworm/updates`.
fn is_of(suite: &str, codename: &str) -> bool {
    match suite.strip_prefix(codename) {
        Some(rest) => rest.is_empty() || rest.starts_with(['-', '/']) && rest != "-backports",
        None => false,
    }
}

/// The name of the package in a `.deb` file's name.
pub(crate) fn package_name(file: &Path) -> Result<&str> {
    match file.file_name().and_then(OsStr::to_str).and_then(|name| name.split_once('_')) {
        Some((package, _)) => Ok(package),
        None => bail!("{} is not named like a package", file.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deb822_stanzas_of_the_release_are_taken_over_and_backports_added() {
        let text = "# ours\nTypes: deb deb-src\nURIs: http://mirror.invalid/debian\n\
                    Suites: bookworm bookworm-updates\nComponents: main\n\n\
                    Types: deb\nURIs: http://other.invalid/node\nSuites: nodistro\n\n\
                    Enabled: no\nTypes: deb\nURIs: http://off.invalid\nSuites: bookworm\n";
        let expected = "Types: deb\nURIs: http://mirror.invalid/debian\n\
                        Suites: bookworm bookworm-updates\nComponents: main\n\n\
                        Types: deb\nURIs: http://mirror.invalid/debian\n\
                        Suites: bookworm-backports\nComponents: main\n\n";
        assert_eq!(from_deb822(text, "bookworm"), expected);
    }

    #[test]
    fn one_line_sources_of_the_release_are_taken_over_and_backports_added() {
        let text = "#deb http://off.invalid bookworm main\n\
                    deb-src http://mirror.invalid bookworm main\n\
                    deb [signed-by=/a trusted=yes] http://mirror.invalid bookworm main contrib\n\
                    deb http://mirror.invalid bookworm-security main\n\
                    deb http://other.invalid stable main\n";
        let expected = "deb [signed-by=/a trusted=yes] http://mirror.invalid bookworm main contrib\n\
                        deb [signed-by=/a trusted=yes] http://mirror.invalid bookworm-backports \
                        main contrib\n\
                        deb http://mirror.invalid bookworm-security main\n";
        assert_eq!(from_one_line(text, "bookworm"), expected);
    }

    #[test]
    fn only_debian_has_a_debian_codename() {
        let debian = "ID=debian\nVERSION_CODENAME=bookworm\n";
        assert_eq!(debian_codename(debian).as_deref(), Some("bookworm"));
        assert_eq!(debian_codename("ID=ubuntu\nVERSION_CODENAME=noble\n"), None);
    }
}
