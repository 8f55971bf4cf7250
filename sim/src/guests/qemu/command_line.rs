//! The arguments of one machine's QEMU process.
//!
//! Whatever carries a path or a list is given as JSON, where commas need no escaping.

use std::os::fd::RawFd;

use serde_json::json;

use super::QemuConfig;
use crate::guests::{GuestDisk, GuestSpec};

/// TCG, with a bounded cache of translated code: the default grows to more than a gigabyte in a
/// machine that reboots now and then.
const ACCELERATOR: &str = "tcg,tb-size=64";

/// A console on the serial line; a crashed kernel restarts after 5 s instead of standing there; nothing
/// that costs boot time under emulation; and the time from a clock whose rate is known: on a busy host the
/// kernel measures the rate of the processor's counter wrong now and then, and then minutes pass in seconds,
/// or the reverse.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=5 random.trust_cpu=on mitigations=off \
    nokaslr audit=0 apparmor=0 clocksource=hpet no_timer_check";

/// What the firmware of an Azure VM says about itself; software in the guest looks for it.
const SMBIOS: [&str; 2] = [
    "type=1,manufacturer=Microsoft Corporation,product=Virtual Machine",
    "type=3,manufacturer=Microsoft Corporation,asset=7783-7084-3265-9085-8269-3286-77",
];

/// The block node of a disk; its virtio serial number is [`serial`].
pub(super) fn node_name(disk: &GuestDisk) -> String {
    format!("disk-{}", serial(disk))
}

/// What the guest reads in `/sys/block/*/serial`: `os`, or `lun` and the number.
fn serial(disk: &GuestDisk) -> String {
    match disk.lun {
        None => "os".into(),
        Some(lun) => format!("lun{lun}"),
    }
}

/// All arguments. `qmp` is the descriptor, in the child, of a connected QMP socket.
pub(super) fn arguments(config: &QemuConfig, spec: &GuestSpec, qmp: RawFd) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut option = |name: &str, value: String| arguments.extend([format!("-{name}"), value]);
    option("name", escaped(&spec.name));
    option("uuid", spec.vm_id.clone());
    option("accel", ACCELERATOR.into());
    option("cpu", "max".into());
    option("machine", "pc".into());
    option("m", config.memory_mib.to_string());
    option("display", "none".into());
    option("kernel", config.kernel.display().to_string());
    option("initrd", config.initrd.display().to_string());
    option("append", kernel_command_line(config, spec));
    for table in SMBIOS {
        option("smbios", table.into());
    }
    for disk in &spec.disks {
        let (node, serial) = (node_name(disk), serial(disk));
        option("blockdev", block_node(disk, &node));
        // A full host disk is an error for the guest, not a reason to pause it.
        option(
            "device",
            format!("virtio-blk-pci,drive={node},serial={serial},werror=report,rerror=report"),
        );
    }
    option("netdev", network(config, spec));
    option("device", "virtio-net-pci,netdev=net,romfile=".into());
    option("device", "virtio-rng-pci".into());
    let log = escaped(&spec.serial_log.display().to_string());
    option("chardev", format!("file,id=serial,path={log},append=on"));
    option("serial", "chardev:serial".into());
    option("chardev", format!("socket,id=qmp,fd={qmp}"));
    option("mon", "chardev=qmp,mode=control".into());
    arguments.extend(["-nodefaults".into(), "-no-user-config".into()]);
    arguments
}

fn kernel_command_line(config: &QemuConfig, spec: &GuestSpec) -> String {
    // A name is one word there: Azure's rules for VM names permit nothing else.
    let name = spec.name.replace(|c: char| c.is_whitespace() || c == '"', "_");
    format!("{KERNEL_ARGUMENTS} azure.vm_name={name} {}", config.kernel_append_extra)
        .trim_end()
        .into()
}

fn block_node(disk: &GuestDisk, node: &str) -> String {
    json!({
        "driver": "raw",
        "node-name": node,
        "discard": "unmap",
        "detect-zeroes": "unmap",
        "file": { "driver": "file", "filename": disk.path, "discard": "unmap" },
    })
    .to_string()
}

/// QEMU's user-mode network, sealed by `restrict`: what is not forwarded does not exist.
fn network(config: &QemuConfig, spec: &GuestSpec) -> String {
    let inward = spec.forwards.iter().map(|forward| {
        let listen = forward.listen;
        json!({ "str": format!("tcp:{}:{}-:{}", listen.ip(), listen.port(), forward.guest_port) })
    });
    let outward = config.controller_forwards.iter().map(|(seen_as, to)| {
        let relay = shell_quoted(&config.relay.display().to_string());
        json!({ "str": format!("tcp:{seen_as}-cmd:{relay} {to}") })
    });
    json!({
        "type": "user",
        "id": "net",
        "ipv6": false,
        "restrict": true,
        "hostfwd": inward.collect::<Vec<_>>(),
        "guestfwd": outward.collect::<Vec<_>>(),
    })
    .to_string()
}

/// For QEMU's `key=value,…` options.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

/// For the command of a `guestfwd`, which is split like a shell's.
fn shell_quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guests::Forward;

    fn example() -> Vec<String> {
        let config = QemuConfig {
            qemu: "qemu".into(),
            kernel: "vmlinux".into(),
            initrd: "initrd".into(),
            run_dir: "run".into(),
            memory_mib: 128,
            controller_forwards: vec![(
                "10.0.2.100:9443".into(),
                "127.0.0.1:4711".parse().unwrap(),
            )],
            relay: "/it's here/relay".into(),
            kernel_append_extra: "loglevel=7".into(),
        };
        let spec = GuestSpec {
            vm_id: "4dd56cf2-6a3f-4d4c-9c3c-0f5f0d0c0b0a".into(),
            name: "web-1".into(),
            disks: vec![
                GuestDisk { lun: None, path: "/disks/a,b.raw".into() },
                GuestDisk { lun: Some(3), path: "/disks/c.raw".into() },
            ],
            forwards: vec![Forward { listen: "127.64.0.4:22".parse().unwrap(), guest_port: 2222 }],
            serial_log: "/logs/a,b".into(),
        };
        arguments(&config, &spec, 7)
    }

    #[test]
    fn every_disk_has_a_serial_number_that_tells_its_lun() {
        let arguments = example();
        let devices: Vec<_> = arguments.iter().filter(|a| a.starts_with("virtio-blk")).collect();
        assert!(devices[0].contains("drive=disk-os,serial=os,"), "{devices:?}");
        assert!(devices[1].contains("drive=disk-lun3,serial=lun3,"), "{devices:?}");
        assert!(arguments.iter().any(|a| a.contains(r#""filename":"/disks/a,b.raw""#)));
    }

    #[test]
    fn the_network_is_sealed_but_for_the_forwards() {
        let arguments = example();
        let network = arguments.iter().find(|a| a.contains("hostfwd")).unwrap();
        let network: serde_json::Value = serde_json::from_str(network).unwrap();
        assert_eq!(network["restrict"], true);
        assert_eq!(network["hostfwd"][0]["str"], "tcp:127.64.0.4:22-:2222");
        assert_eq!(
            network["guestfwd"][0]["str"],
            r"tcp:10.0.2.100:9443-cmd:'/it'\''s here/relay' 127.0.0.1:4711"
        );
    }

    #[test]
    fn commas_in_paths_are_escaped_where_it_matters() {
        assert!(example().contains(&"file,id=serial,path=/logs/a,,b,append=on".into()));
    }
}
