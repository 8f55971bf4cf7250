//! The small Linux that the lab's virtual machines run: kernel, initial RAM disk, disk images.
//!
//! Debian's cloud kernel, busybox as init and shell, dropbear for SSH, and the agent if it has been
//! built. Everything is made in a few seconds without mounting anything, so root is not needed
//! (only `fakeroot`, so that the files in the image belong to root). The parts that run in the
//! guest are the scripts in `guest_image/`; what they print on the console for others to find:
//!
//! | words | meaning |
//! |---|---|
//! | `LAB-BOOT-OK boot_id=… vm_id=…` | the machine is up; services follow |
//! | `LAB-BOOT-FAIL reason` | the OS disk cannot be booted; the machine switches itself off |
//! | `LAB-DATA lab-check: …` | at boot, whether the two disks agree (see `lab-writer`) |
//! | `LAB-DATA-FAIL mount` | the disk with the serial number `lun0` is there but cannot be mounted |

mod cpio;
mod kernel;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::debian_packages::{Apt, find_program, is_root, package_name, run};
use cpio::Archive;

const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// Downloaded besides the kernel; the libraries are dropbear's.
const PACKAGES: [&str; 8] = [
    "busybox-static",
    "dropbear-bin",
    "libc6",
    "libcrypt1",
    "libgmp10",
    "libtomcrypt1",
    "libtommath1",
    "zlib1g",
];

/// The agent's programs, taken over when they have been built.
const AGENT_PROGRAMS: [&str; 2] = ["azdr-agent", "azdr-thawd"];

/// Drivers that are modules in Debian's cloud kernel, each after those it needs.
const MODULES: [&str; 10] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/char/hw_random/virtio-rng",
];

/// What the initial RAM disk's script calls.
const INITRAMFS_APPLETS: [&str; 11] = [
    "[",
    "cat",
    "chroot",
    "echo",
    "insmod",
    "mount",
    "poweroff",
    "sh",
    "sleep",
    "switch_root",
    "umount",
];

/// The writer on both disks, and whether they agree.
pub(crate) const LAB_WRITER: &str = include_str!("guest_image/root/lab-writer");
pub(crate) const LAB_CHECK: &str = include_str!("guest_image/root/lab-check");

const INITRAMFS_INIT: &str = include_str!("guest_image/initramfs-init");

/// Text files of the OS image, with their modes.
const FILES: [(&str, u32, &str); 11] = [
    ("sbin/init", 0o755, include_str!("guest_image/root/init")),
    ("etc/inittab", 0o644, include_str!("guest_image/root/inittab")),
    ("usr/sbin/lab-agent", 0o755, include_str!("guest_image/root/lab-agent")),
    ("usr/sbin/lab-service", 0o755, include_str!("guest_image/root/lab-service")),
    ("usr/sbin/lab-writer", 0o755, LAB_WRITER),
    ("usr/sbin/lab-check", 0o755, LAB_CHECK),
    ("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n"),
    ("etc/group", 0o644, "root:x:0:\ntty:x:5:\n"),
    ("etc/shadow", 0o600, "root:*:19000:0:99999:7:::\n"),
    ("etc/shells", 0o644, "/bin/sh\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n"),
];

const FOLDERS: [(&str, u32); 11] = [
    ("proc", 0o555),
    ("sys", 0o555),
    ("dev", 0o755),
    ("run", 0o755),
    ("tmp", 0o1777),
    ("data", 0o755),
    ("root", 0o700),
    ("root/.ssh", 0o700),
    ("etc/azdr", 0o700),
    ("etc/dropbear", 0o700),
    ("var/lib/azdr", 0o700),
];

/// Parts of the packages that nothing here needs, and that are most of their size.
const UNNEEDED: [&str; 5] = [
    "usr/share",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/locale",
    "usr/bin/dbclient",
    "usr/bin/dropbearconvert",
];

const OS_IMAGE_MIB: u64 = 160;
const DATA_IMAGE_MIB: u64 = 64;

/// A finished image. The disk images are templates: copy them (sparsely), never run on them.
#[derive(Clone, Debug)]
pub(crate) struct GuestImage {
    /// For QEMU's `-kernel`.
    pub(crate) kernel: PathBuf,
    /// For QEMU's `-initrd`.
    pub(crate) initrd: PathBuf,
    /// Debian's package that the kernel is from; it has the modules.
    pub(crate) kernel_package: PathBuf,
    /// The OS disk, 160 MiB, sparse, ext4 without a partition table.
    pub(crate) os_image: PathBuf,
    /// An empty data disk, 64 MiB, ext4, labelled `labdata`; mounted at /data when it is LUN 0.
    pub(crate) data_image: PathBuf,
    /// The private key that root's account accepts.
    pub(crate) ssh_key: PathBuf,
    /// Whether the agent's programs are inside; without them the guest is merely not protected.
    pub(crate) has_agent: bool,
}

/// Makes the guest image in `out_dir`, unless the one there is made of the same things.
///
/// Packages are downloaded once into `out_dir/debs`; afterwards no network is needed. `agent_dir`
/// is where cargo put the agent's programs; they may be missing.
///
/// # Errors
/// When packages cannot be downloaded, or a tool is missing (the message names it).
pub(crate) fn ensure_guest_image(out_dir: &Path, agent_dir: &Path) -> Result<GuestImage> {
    ensure!(cfg!(target_arch = "x86_64"), "the lab's guests are x86-64 machines, like their host");
    fs::create_dir_all(out_dir).with_context(|| format!("cannot create {}", out_dir.display()))?;
    let out_dir = &fs::canonicalize(out_dir)?;
    let agent: Vec<PathBuf> =
        AGENT_PROGRAMS.iter().map(|name| agent_dir.join(name)).filter(|p| p.is_file()).collect();
    let public_key = ensure_ssh_key(&out_dir.join("id_ed25519"))?;
    let packages = ensure_packages(out_dir)?;
    let image = GuestImage {
        kernel_package: kernel_package(&packages)?,
        kernel: out_dir.join("vmlinux"),
        initrd: out_dir.join("initrd.cpio"),
        os_image: out_dir.join("os.raw"),
        data_image: out_dir.join("data.raw"),
        ssh_key: out_dir.join("id_ed25519"),
        has_agent: agent.len() == AGENT_PROGRAMS.len(),
    };

    let ingredients = ingredients(&packages, &agent, &public_key)?;
    let list = out_dir.join("ingredients");
    if fs::read_to_string(&list).is_ok_and(|used| used == ingredients) {
        return Ok(image);
    }
    // Without the list, an interrupted build is not mistaken for a finished one.
    remove_if_there(&list)?;
    let work = out_dir.join("work");
    remove_if_there(&work)?;
    build(&image, &packages, &agent, &public_key, &work)?;
    remove_if_there(&work)?;
    fs::write(&list, ingredients)?;
    Ok(image)
}

fn build(
    image: &GuestImage,
    packages: &[PathBuf],
    agent: &[PathBuf],
    public_key: &str,
    work: &Path,
) -> Result<()> {
    let (kernel, root) = (work.join("kernel"), work.join("root"));
    for package in packages {
        let into = if *package == image.kernel_package { &kernel } else { &root };
        fs::create_dir_all(into)?;
        run(Command::new("dpkg-deb").arg("-x").arg(package).arg(into))?;
    }
    write_kernel(&kernel, &image.kernel)?;
    write_initramfs(&kernel, &root.join("bin/busybox"), &image.initrd)?;
    fill_root(&root, agent, public_key)?;
    make_file_system(&image.os_image, OS_IMAGE_MIB, "labroot", Some(&root))?;
    make_file_system(&image.data_image, DATA_IMAGE_MIB, "labdata", None)
}

/// The packages' files, downloaded when they are not there yet.
fn ensure_packages(out_dir: &Path) -> Result<Vec<PathBuf>> {
    let debs = out_dir.join("debs");
    let complete = debs.join("complete");
    if !complete.exists() {
        let apt = Apt::prepare(&out_dir.join("apt")).context(
            "the guest image is made of Debian's packages; build it on Debian, or copy the folder \
             debs of another machine's build here",
        )?;
        apt.update()?;
        let kernels = apt.dependencies(KERNEL_PACKAGE)?;
        let kernel = kernels.into_iter().find(|name| name.starts_with("linux-image-"));
        let mut wanted = vec![kernel.context("Debian's cloud kernel depends on no kernel")?];
        wanted.extend(PACKAGES.map(str::to_owned));
        remove_if_there(&debs)?;
        apt.download(&wanted, &debs)?;
        fs::write(&complete, "")?;
    }
    let mut packages = Vec::new();
    for entry in fs::read_dir(&debs)? {
        packages.push(entry?.path());
    }
    packages.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    packages.sort();
    Ok(packages)
}

fn kernel_package(packages: &[PathBuf]) -> Result<PathBuf> {
    for package in packages {
        if package_name(package)?.starts_with("linux-image-") {
            return Ok(package.clone());
        }
    }
    bail!("there is no kernel among the downloaded packages")
}

/// The key pair for root's account; returns the public key.
fn ensure_ssh_key(path: &Path) -> Result<String> {
    if !path.exists() {
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"])
            .arg(path))?;
    }
    Ok(fs::read_to_string(path.with_extension("pub"))?)
}

/// All that the image depends on, as text.
fn ingredients(packages: &[PathBuf], agent: &[PathBuf], public_key: &str) -> Result<String> {
    let mut text = format!("{INITRAMFS_INIT}{FILES:?}{FOLDERS:?}{OS_IMAGE_MIB} {DATA_IMAGE_MIB}\n");
    text += public_key;
    for path in packages.iter().chain(agent) {
        let metadata = fs::metadata(path)?;
        let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH)?;
        text += &format!("{} {} {modified:?}\n", path.display(), metadata.len());
    }
    Ok(text)
}

fn write_kernel(package: &Path, target: &Path) -> Result<()> {
    let vmlinuz = one_file_starting_with(&package.join("boot"), "vmlinuz-")?;
    let compressed = fs::read(&vmlinuz)?;
    // QEMU boots either; the uncompressed one saves the guest the work of unpacking itself.
    let kernel = kernel::uncompressed(&compressed).unwrap_or(compressed);
    fs::write(target, kernel).with_context(|| format!("cannot write {}", target.display()))
}

fn write_initramfs(package: &Path, busybox: &Path, target: &Path) -> Result<()> {
    let modules = one_file_starting_with(&package.join("lib/modules"), "")?.join("kernel");
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "newroot", "proc", "sys"] {
        archive.folder(folder);
    }
    archive.file("init", 0o755, INITRAMFS_INIT.as_bytes());
    archive.file("bin/busybox", 0o755, &fs::read(busybox)?);
    for applet in INITRAMFS_APPLETS {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    let mut order = String::new();
    for module in MODULES {
        let path = modules.join(format!("{module}.ko"));
        let content = fs::read(&path)
            .with_context(|| format!("Debian's kernel has no {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{name}"), 0o644, &content);
        order += &format!("{name}\n");
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    fs::write(target, archive.finish())
        .with_context(|| format!("cannot write {}", target.display()))
}

/// Adds to the extracted packages what makes them a system.
fn fill_root(root: &Path, agent: &[PathBuf], public_key: &str) -> Result<()> {
    for path in UNNEEDED {
        remove_if_there(&root.join(path))?;
    }
    for folder in ["sbin", "usr/bin", "usr/sbin", "var/log"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for (path, mode) in FOLDERS {
        let path = root.join(path);
        fs::create_dir_all(&path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    for (path, mode, content) in FILES {
        write_file(&root.join(path), mode, content)?;
    }
    write_file(&root.join("root/.ssh/authorized_keys"), 0o600, public_key)?;
    for applet in run(Command::new(root.join("bin/busybox")).arg("--list"))?.lines() {
        let link = root.join("bin").join(applet);
        // busybox itself, and what is not to be an applet.
        if !link.exists() && applet != "init" {
            symlink("busybox", &link).with_context(|| format!("cannot link {applet}"))?;
        }
    }
    for program in agent {
        install_program(root, program)?;
    }
    Ok(())
}

/// Copies one of our programs with the shared libraries that it needs.
fn install_program(root: &Path, program: &Path) -> Result<()> {
    let target = root.join("usr/sbin").join(program.file_name().context("a program has a name")?);
    match find_program("strip") {
        // A debug build is mostly symbols, and would not fit.
        Some(strip) => run(Command::new(strip).arg("-o").arg(&target).arg(program)).map(drop)?,
        None => fs::copy(program, &target).map(drop)?,
    }
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
    // A static program has no libraries, and then ldd fails.
    let listing = run(Command::new("ldd").arg(program)).unwrap_or_default();
    for library in shared_libraries(&listing)? {
        let target = root.join(library.strip_prefix("/").unwrap_or(&library));
        if !target.exists() {
            fs::create_dir_all(target.parent().unwrap_or(root))?;
            fs::copy(&library, &target)
                .with_context(|| format!("cannot copy {}", library.display()))?;
        }
    }
    Ok(())
}

/// The files that ldd found; `linux-vdso` is none.
fn shared_libraries(ldd: &str) -> Result<BTreeSet<PathBuf>> {
    let mut libraries = BTreeSet::new();
    for line in ldd.lines() {
        if let Some((name, _)) = line.split_once("=> not found") {
            bail!("the library {} is missing on this machine", name.trim());
        }
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        libraries.extend(path.map(PathBuf::from));
    }
    Ok(libraries)
}

/// An ext4 image, with the content of `content` if given.
pub(crate) fn make_file_system(
    image: &Path,
    size_mib: u64,
    label: &str,
    content: Option<&Path>,
) -> Result<()> {
    remove_if_there(image)?;
    let mke2fs = find_program("mke2fs").context("mke2fs is missing: install e2fsprogs")?;
    let mut command = if content.is_some() && !is_root() {
        // Files would belong to us, and dropbear does not trust such a home folder.
        let fakeroot = find_program("fakeroot").context("not root: install fakeroot")?;
        let script = r#"chown -hR 0:0 "$1" && shift && exec "$@""#;
        let mut command = Command::new(fakeroot);
        command.args(["--", "sh", "-c", script, "sh"]).args(content).arg(mke2fs);
        command
    } else {
        Command::new(mke2fs)
    };
    // A fixed identity, so that the same ingredients give much the same image; nothing left for the
    // guest's kernel to initialise in the background, so that an idle guest is idle.
    let id = "5f0c1d5e-0000-4000-8000-000000000001";
    let extended =
        format!("root_owner=0:0,hash_seed={id},lazy_itable_init=0,lazy_journal_init=0,nodiscard");
    command.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-J", "size=4"]);
    command.args(["-L", label, "-U", id, "-E", &extended]);
    if let Some(content) = content {
        command.arg("-d").arg(content);
    }
    run(command.arg(image).arg(format!("{size_mib}M")))?;
    Ok(())
}

pub(crate) fn write_file(path: &Path, mode: u32, content: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

pub(crate) fn remove_if_there(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

pub(crate) fn one_file_starting_with(folder: &Path, prefix: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    bail!("{} has no file {prefix}…", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_what_ldd_prints() {
        let listing = "\tlinux-vdso.so.1 (0x00007f)\n\
                       \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = shared_libraries(listing).unwrap();
        let expected = ["/lib/x86_64-linux-gnu/libgcc_s.so.1", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(found, expected.map(PathBuf::from).into());
        assert!(shared_libraries("\tlibx.so => not found\n").is_err());
    }
}
