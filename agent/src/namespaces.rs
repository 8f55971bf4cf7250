//! Mount tables of all namespaces: a file system that only a container has mounted is on the disk, and
//! in the snapshot, all the same (R10).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::mounts::{Mount, Seen, parse_mountinfo};

/// Of so many processes of a namespace the mount table is asked for: they may be ending.
const TRIES: usize = 4;

/// The mounts of this process's namespace first, then those of PID 1's, if that is another one, then
/// of every other. Mounts have one id for all namespaces.
///
/// # Errors
/// This process's own mount table cannot be read. Namespaces of others may be out of reach for who is
/// not root: they are left out.
pub fn read_mounts(proc: &Path) -> io::Result<Vec<Mount>> {
    let own = namespace(&proc.join("self"));
    let mut mounts = table(&proc.join("self"), Seen::Here)?;
    let mut others: BTreeMap<PathBuf, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir(proc)?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(found) = namespace(&entry.path()).filter(|found| Some(found) != own.as_ref()) {
            others.entry(found).or_default().push(pid);
        }
    }
    let mut others: Vec<Vec<u32>> = others.into_values().collect();
    others.iter_mut().for_each(|pids| pids.sort_unstable());
    // That of PID 1 comes first.
    others.sort();
    for pids in others {
        let read = pids.iter().take(TRIES).find_map(|pid| {
            let seen = if *pid == 1 { Seen::Init } else { Seen::By(*pid) };
            table(&proc.join(pid.to_string()), seen).ok()
        });
        mounts.extend(read.unwrap_or_default());
    }
    Ok(mounts)
}

fn namespace(process: &Path) -> Option<PathBuf> {
    fs::read_link(process.join("ns/mnt")).ok()
}

fn table(process: &Path, seen: Seen) -> io::Result<Vec<Mount>> {
    // Bytes: a mount point need not be UTF-8. Escapes are ASCII, so a lossy reading only spoils
    // such names, whose mounts then fail to open: closed, not skipped.
    let bytes = fs::read(process.join("mountinfo"))?;
    Ok(parse_mountinfo(&String::from_utf8_lossy(&bytes), seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(proc: &Path, name: &str, namespace: &str, table: &str) {
        let folder = proc.join(name);
        fs::create_dir_all(folder.join("ns")).unwrap();
        std::os::unix::fs::symlink(namespace, folder.join("ns/mnt")).unwrap();
        if !table.is_empty() {
            fs::write(folder.join("mountinfo"), table).unwrap();
        }
    }

    #[test]
    fn each_namespace_is_read_once_and_this_processs_own_comes_first() {
        let proc = tempfile::tempdir().unwrap();
        let line = |id: u32, device: &str| format!("{id} 1 {device} / /data rw - ext4 /dev/x rw\n");
        process(proc.path(), "self", "mnt:[1]", &line(20, "8:1"));
        process(proc.path(), "77", "mnt:[1]", &line(20, "8:1"));
        process(proc.path(), "1", "mnt:[2]", &line(30, "8:2"));
        // The first process of this one is just ending.
        process(proc.path(), "40", "mnt:[3]", "");
        process(proc.path(), "41", "mnt:[3]", &line(40, "8:3"));
        fs::create_dir(proc.path().join("sys")).unwrap();
        let found: Vec<_> = read_mounts(proc.path()).unwrap();
        let found: Vec<_> = found.iter().map(|mount| (mount.id, mount.seen)).collect();
        assert_eq!(found, [(20, Seen::Here), (30, Seen::Init), (40, Seen::By(41))]);
    }

    #[test]
    fn this_machines_own_tables_are_read() {
        let mounts = read_mounts(Path::new("/proc")).unwrap();
        let root = |mount: &Mount| mount.mount_point == Path::new("/") && mount.seen == Seen::Here;
        assert!(mounts.iter().any(root));
    }
}
