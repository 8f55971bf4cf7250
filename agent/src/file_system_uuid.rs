//! A file system's UUID as udev has read it: for kernels that do not tell (before 6.9), and for what is
//! not opened.

use std::fs;

use crate::mounts::Device;
use crate::roots::Roots;

/// The UUID of what is on a block device; empty where it is not known.
pub(crate) fn by_link(roots: &Roots, device: Device) -> String {
    let node = roots.sys.join("dev/block").join(device.to_string());
    let Ok(node) = fs::canonicalize(node) else { return String::new() };
    let links = fs::read_dir(roots.dev.join("disk/by-uuid")).into_iter().flatten().flatten();
    let leads_here = |link: &fs::DirEntry| {
        let target = fs::read_link(link.path()).ok();
        target.is_some_and(|target| target.file_name() == node.file_name())
    };
    let found = links.filter(leads_here).find_map(|link| link.file_name().into_string().ok());
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_uuid_is_found_by_its_link() {
        let machine = tempfile::tempdir().unwrap();
        let at = |path: &str| machine.path().join(path);
        let roots = Roots { sys: at("sys"), dev: at("dev"), ..Roots::default() };
        for folder in ["sys/devices/sda/sda1", "sys/devices/sdc", "sys/dev/block"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        symlink(at("sys/devices/sda/sda1"), at("sys/dev/block/8:1")).unwrap();
        symlink(at("sys/devices/sdc"), at("sys/dev/block/8:32")).unwrap();
        fs::create_dir_all(at("dev/disk/by-uuid")).unwrap();
        symlink("../../sda1", at("dev/disk/by-uuid/1234-abcd")).unwrap();
        let of = |device: &str| by_link(&roots, device.parse().unwrap());
        assert_eq!(of("8:1"), "1234-abcd");
        assert_eq!(of("8:32"), "", "without a link");
        assert_eq!(of("8:64"), "", "not there");
    }
}
