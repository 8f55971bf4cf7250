//! The full guest: Debian with systemd and OpenSSH, and azdr's packages, not yet installed, in root's home.
//!
//! The kernel, the initial RAM disk, the data disk and the key are the small guest's. mmdebstrap makes the
//! system, from the machine's own Debian sources, and needs root here. There is no udev: drivers come from
//! the RAM disk, or are loaded by who needs them, and what is to be mounted is known by its serial number.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::debian_packages::{Apt, ensure_program, is_root, run};
use crate::dist::AgentPackages;
use crate::guest_image::{
    GuestImage, LAB_CHECK, LAB_WRITER, make_file_system, one_file_starting_with, remove_if_there,
    write_file,
};

/// On top of Debian's essential packages. busybox has what the lab's scripts call and Debian has not.
const PACKAGES: [&str; 8] = [
    "systemd-sysv",
    "openssh-server",
    "iproute2",
    "kmod",
    "busybox-static",
    "postgresql",
    // Logins are logind's sessions, as on every Debian server.
    "libpam-systemd",
    // For the agent's other package.
    "rpm",
];

/// For volumes of device-mapper.
const VOLUME_PACKAGES: [&str; 1] = ["lvm2"];
/// Their drivers; what each needs is among them or in the kernel itself.
const VOLUME_MODULES: [&str; 4] = ["dm-mod", "dm-bufio", "dm-snapshot", "dm-delay"];

const IMAGE_MIB: u64 = 1024;
/// RAM that such a machine needs.
const MEMORY_MIB: u32 = 384;

const BOOT: &str = include_str!("debian_guest/root/lab-boot");
const BOOT_UNIT: &str = include_str!("debian_guest/root/lab-boot.service");
const WRITER_UNIT: &str = include_str!("debian_guest/root/lab-writer.service");

/// Makes the image in `folder` unless the one there is made of the same things.
///
/// # Errors
/// When this is not root on Debian, or packages cannot be downloaded.
pub(crate) fn ensure_debian_guest(
    small: &GuestImage,
    folder: &Path,
    packages: &AgentPackages,
) -> Result<()> {
    let lab = small.os_image.parent().context("an image is in a folder")?;
    ensure!(is_root(), "the Debian guest is made by mmdebstrap as root");
    ensure_program("mmdebstrap", "mmdebstrap", &lab.join("apt"))?;
    fs::create_dir_all(folder)?;
    let public_key = fs::read_to_string(small.ssh_key.with_extension("pub"))?;
    let ingredients = ingredients(small, packages, &public_key)?;
    let list = folder.join("ingredients");
    if fs::read_to_string(&list).is_ok_and(|used| used == ingredients) {
        return Ok(());
    }
    remove_if_there(&list)?;
    let root = folder.join("root");
    remove_if_there(&root)?;
    bootstrap(&Apt::prepare(&lab.join("apt"))?, folder, &root)?;
    fill(&root, packages, &public_key)?;
    let work = folder.join("kernel");
    remove_if_there(&work)?;
    add_modules(&root, &small.kernel_package, &work)?;
    remove_if_there(&work)?;
    make_file_system(&folder.join("os.raw"), IMAGE_MIB, "labroot", Some(&root))?;
    remove_if_there(&root)?;
    for part in [&small.kernel, &small.initrd, &small.data_image, &small.ssh_key] {
        let target = folder.join(part.file_name().context("a part has a name")?);
        fs::copy(part, &target).with_context(|| format!("cannot write {}", target.display()))?;
    }
    fs::write(folder.join("memory-mib"), MEMORY_MIB.to_string())?;
    fs::write(&list, ingredients)?;
    Ok(())
}

/// All that the image depends on, as text.
fn ingredients(small: &GuestImage, packages: &AgentPackages, public_key: &str) -> Result<String> {
    let mut text = format!(
        "{PACKAGES:?}{VOLUME_PACKAGES:?}{VOLUME_MODULES:?}{IMAGE_MIB} {MEMORY_MIB}\n{BOOT}{BOOT_UNIT}{WRITER_UNIT}{LAB_CHECK}{LAB_WRITER}{public_key}"
    );
    for path in [&packages.debian, &packages.rpm, &small.kernel, &small.initrd, &small.data_image] {
        let metadata = fs::metadata(path)?;
        let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH)?;
        text += &format!("{} {} {modified:?}\n", path.display(), metadata.len());
    }
    Ok(text)
}

fn bootstrap(apt: &Apt, folder: &Path, root: &Path) -> Result<()> {
    // mmdebstrap has a configuration of its own for apt: it is given what this machine's says of downloads.
    let settings = folder.join("apt.conf");
    fs::write(&settings, run(Command::new("apt-config").args(["dump", "Acquire"]))?)?;
    let mut command = Command::new("mmdebstrap");
    command.args(["--mode=root", "--variant=minbase", "--format=directory"]);
    command.arg(format!("--include={}", PACKAGES.join(",")));
    command.arg(format!("--include={}", VOLUME_PACKAGES.join(",")));
    command.arg(format!("--aptopt={}", settings.display()));
    command.args(["--aptopt=Acquire::Languages \"none\"", "--dpkgopt=force-unsafe-io"]);
    command.args(["--dpkgopt=path-exclude=/usr/share/doc/*"]);
    command.args(["--dpkgopt=path-exclude=/usr/share/man/*"]);
    command.args(["--dpkgopt=path-exclude=/usr/share/locale/*"]);
    command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
    run(command.arg(apt.codename()).arg(root).args(apt.source_files()?))?;
    Ok(())
}

/// Makes a machine of the lab of a bare Debian.
fn fill(root: &Path, packages: &AgentPackages, public_key: &str) -> Result<()> {
    for (path, mode, content) in [
        ("usr/sbin/lab-boot", 0o755, BOOT),
        ("usr/sbin/lab-writer", 0o755, LAB_WRITER),
        ("usr/sbin/lab-check", 0o755, LAB_CHECK),
        ("etc/systemd/system/lab-boot.service", 0o644, BOOT_UNIT),
        ("etc/systemd/system/lab-writer.service", 0o644, WRITER_UNIT),
        ("etc/hostname", 0o644, "guest\n"),
        // Else the first boot asks questions on the console.
        ("etc/machine-id", 0o444, "5f0c1d5e000040008000000000000001\n"),
        // What is not there would be waited for.
        ("etc/fstab", 0o644, ""),
    ] {
        write_file(&root.join(path), mode, content)?;
    }
    write_file(&root.join("root/.ssh/authorized_keys"), 0o600, public_key)?;
    fs::set_permissions(root.join("root/.ssh"), fs::Permissions::from_mode(0o700))?;
    fs::create_dir_all(root.join("data"))?;
    symlink("/bin/busybox", root.join("usr/local/bin/usleep"))?;
    for (unit, wanted_by) in [("lab-boot", "multi-user"), ("lab-writer", "multi-user")] {
        let wants = root.join(format!("etc/systemd/system/{wanted_by}.target.wants"));
        fs::create_dir_all(&wants)?;
        let link = wants.join(format!("{unit}.service"));
        symlink(format!("/etc/systemd/system/{unit}.service"), link)?;
    }
    // It would wait for udev to announce the console.
    let getty = root.join("etc/systemd/system/serial-getty@ttyS0.service");
    symlink("/dev/null", getty)?;
    for key in fs::read_dir(root.join("etc/ssh"))? {
        let key = key?;
        // Made at the first boot: two machines must not share them.
        if key.file_name().to_string_lossy().starts_with("ssh_host_") {
            fs::remove_file(key.path())?;
        }
    }
    // Packages that are installed later come whole: the agent's documentation has the hooks.
    remove_if_there(&root.join("etc/dpkg/dpkg.cfg.d/99mmdebstrap"))?;
    for (package, name) in [(&packages.debian, "azdr-agent.deb"), (&packages.rpm, "azdr-agent.rpm")]
    {
        fs::copy(package, root.join("root").join(name)).context("cannot copy a package")?;
    }
    Ok(())
}

/// Gives it drivers of the kernel that it is booted with; `work` is an empty place for the kernel's files.
fn add_modules(root: &Path, kernel_package: &Path, work: &Path) -> Result<()> {
    fs::create_dir_all(work)?;
    run(Command::new("dpkg-deb").arg("-x").arg(kernel_package).arg(work))?;
    let from = one_file_starting_with(&work.join("lib/modules"), "")?;
    let version = from.file_name().context("the modules' folder has a name")?;
    let to = root.join("lib/modules").join(version);
    fs::create_dir_all(to.join("kernel"))?;
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        fs::copy(from.join(list), to.join(list)).with_context(|| format!("no {list}"))?;
    }
    for module in VOLUME_MODULES {
        let name = format!("{module}.ko");
        fs::copy(from.join("kernel/drivers/md").join(&name), to.join("kernel").join(&name))
            .with_context(|| format!("Debian's kernel has no {name}"))?;
    }
    run(Command::new("chroot").arg(root).arg("depmod").arg(version))?;
    Ok(())
}
