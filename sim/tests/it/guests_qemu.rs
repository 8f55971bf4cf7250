//! Real machines. These tests need QEMU and the guest image, in `target/lab` or where
//! `AZURE_SIM_GUEST_IMAGE` says: `cargo xtask guest-image` makes it. They print what they measure.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use azdr_env::{Clock, Monotonic, SystemClock};
use azure_sim::guests::qemu::{QemuConfig, QemuGuests};
use azure_sim::guests::{Forward, GuestDisk, GuestSpec, Guests};

/// Generous, because other tests may use the same two processors.
const LIMIT: Duration = Duration::from_secs(120);

/// One test's machines and their files.
struct Lab {
    guests: QemuGuests,
    image: PathBuf,
    folder: tempfile::TempDir,
    clock: SystemClock,
}

impl Lab {
    fn new(controller: Option<SocketAddr>) -> Self {
        let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab");
        let image = std::env::var_os("AZURE_SIM_GUEST_IMAGE").map_or(default, PathBuf::from);
        let folder = tempfile::tempdir().unwrap();
        let guests = QemuGuests::new(QemuConfig {
            qemu: "qemu-system-x86_64".into(),
            kernel: image.join("vmlinux"),
            initrd: image.join("initrd.cpio"),
            run_dir: folder.path().join("run"),
            memory_mib: 128,
            controller_forwards: controller
                .map(|to| ("10.0.2.100:9443".into(), to))
                .into_iter()
                .collect(),
            relay: env!("CARGO_BIN_EXE_azure-sim-relay").into(),
            kernel_append_extra: String::new(),
        });
        Self { guests, image, folder, clock: SystemClock::new() }
    }

    /// A machine with fresh disks. `n` makes its address and vmId.
    async fn machine(&self, n: u8) -> GuestSpec {
        let spec = self.machine_on(n, self.path(n, "os.raw"), self.path(n, "data.raw"));
        for (disk, template) in spec.disks.iter().zip(["os.raw", "data.raw"]) {
            let template = self.image.join(template);
            self.guests.snapshot_disk(None, &template, &disk.path, Box::new(|| ())).await.unwrap();
        }
        spec
    }

    /// A machine with given disks.
    fn machine_on(&self, n: u8, os: PathBuf, data: PathBuf) -> GuestSpec {
        let free = TcpListener::bind((address(n), 0)).unwrap().local_addr().unwrap();
        GuestSpec {
            vm_id: format!("01234567-89ab-4cde-8f01-2345678900{n:02x}"),
            name: format!("vm-{n}"),
            disks: vec![GuestDisk { lun: None, path: os }, GuestDisk { lun: Some(0), path: data }],
            forwards: vec![Forward { listen: free, guest_port: 22 }],
            serial_log: self.path(n, "serial.log"),
        }
    }

    fn path(&self, n: u8, name: &str) -> PathBuf {
        self.folder.path().join(format!("{n}-{name}"))
    }

    /// Starts the machine and returns once a command runs in it.
    async fn boot(&self, spec: &GuestSpec) {
        let begin = self.clock.monotonic();
        self.guests.start(spec).await.unwrap();
        self.tell("started", begin);
        // The port is open long before anybody answers there, so the console is asked first.
        until("the machine boots", async || {
            let words = console(spec);
            assert!(self.guests.is_running(&spec.vm_id).await, "{words}");
            words.rsplit("LAB-BOOT-FAIL").next().is_some_and(|w| w.contains("LAB-BOOT-OK"))
        })
        .await;
        self.tell("booted", begin);
        until("the machine answers", async || self.ssh(spec, "true").await.status.success()).await;
        self.tell("answers over SSH", begin);
    }

    /// Runs a command in the machine.
    async fn ssh(&self, spec: &GuestSpec, command: &str) -> Output {
        let address = spec.forwards[0].listen;
        tokio::process::Command::new("ssh")
            .args(["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
            .args(["-o", "ConnectTimeout=2", "-o", "ServerAliveInterval=5", "-F", "none"])
            .arg("-i")
            .arg(self.image.join("id_ed25519"))
            .args(["-p", &address.port().to_string(), &format!("root@{}", address.ip()), command])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap()
    }

    /// Runs a command in the machine, which must succeed, and returns what it prints.
    async fn run(&self, spec: &GuestSpec, command: &str) -> String {
        let output = self.ssh(spec, command).await;
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().into()
    }

    /// Copies a disk of the machine; prints how long it took.
    async fn copy(&self, spec: &GuestSpec, disk: usize, target: &Path) {
        let begin = self.clock.monotonic();
        let (fixed, is_fixed) = tokio::sync::oneshot::channel();
        let at_instant = Box::new(move || fixed.send(()).unwrap());
        let source = &spec.disks[disk].path;
        let copying = self.guests.snapshot_disk(Some(&spec.vm_id), source, target, at_instant);
        let telling = async {
            is_fixed.await.unwrap();
            self.tell("instant of a copy", begin);
        };
        tokio::join!(async { copying.await.unwrap() }, telling);
        self.tell("copy complete", begin);
    }

    fn tell(&self, what: &str, since: Monotonic) {
        println!("{what}: {:?}", self.clock.monotonic().since(since));
    }
}

fn address(n: u8) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::new(127, 64, 9, n)
}

fn console(spec: &GuestSpec) -> String {
    std::fs::read(&spec.serial_log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// Polls until something is so.
async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let poll = async {
        while !is_so().await {
            azdr_env::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LIMIT, poll).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs QEMU and the guest image: cargo xtask guest-image"]
async fn frozen_copies_of_a_running_machines_disks_boot_and_agree() {
    let lab = Lab::new(None);
    let original = lab.machine(1).await;
    lab.boot(&original).await;
    assert_eq!(lab.run(&original, "hostname").await, "vm-1");
    let product_uuid = lab.run(&original, "cat /sys/class/dmi/id/product_uuid").await;
    assert_eq!(product_uuid, original.vm_id);
    let boot_ok = format!("vm_id={}", original.vm_id);
    assert!(console(&original).contains(&boot_ok), "{}", console(&original));

    lab.run(&original, "echo 1000 >/etc/lab-writer").await;
    until("the writer writes", async || lab.ssh(&original, "lab-check").await.status.success())
        .await;
    lab.run(&original, "sync; fsfreeze --freeze /data && fsfreeze --freeze /").await;
    let frozen = lab.run(&original, "lab-check").await;
    let (os, data) = (lab.path(2, "os.raw"), lab.path(2, "data.raw"));
    tokio::join!(lab.copy(&original, 0, &os), lab.copy(&original, 1, &data));
    for copy in [&os, &data] {
        let allocated_bytes = std::fs::metadata(copy).unwrap().blocks() * 512;
        assert!(allocated_bytes < 40 << 20, "{} is not sparse", copy.display());
    }
    lab.run(&original, "fsfreeze --unfreeze /; fsfreeze --unfreeze /data").await;
    until("the writer goes on", async || lab.run(&original, "lab-check").await != frozen).await;
    assert!(lab.run(&original, "lab-check").await.contains("ok"));

    let copy = lab.machine_on(2, os, data);
    lab.boot(&copy).await;
    let words = console(&copy);
    assert!(words.contains(&format!("LAB-DATA {frozen}")), "frozen at {frozen}; {words}");
    assert!(words.contains(&format!("vm_id={}", copy.vm_id)), "{words}");
    let identity = "md5sum </etc/dropbear/dropbear_ed25519_host_key";
    assert_eq!(lab.run(&copy, identity).await, lab.run(&original, identity).await);
    let boot_id = "cat /proc/sys/kernel/random/boot_id";
    assert_ne!(lab.run(&copy, boot_id).await, lab.run(&original, boot_id).await);
    assert!(lab.run(&copy, "lab-check").await.contains("ok"));
    lab.guests.shut_down().await;
    assert!(!lab.guests.is_running(&copy.vm_id).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs QEMU and the guest image: cargo xtask guest-image"]
async fn a_paused_machine_stands_still_with_its_clock_and_its_disks_can_be_copied() {
    let lab = Lab::new(None);
    let machine = lab.machine(6).await;
    lab.boot(&machine).await;
    let up = "cut -d. -f1 /proc/uptime";
    let before: u64 = lab.run(&machine, up).await.parse().unwrap();
    lab.guests.pause(&machine.vm_id).await.unwrap();
    lab.guests.pause(&machine.vm_id).await.unwrap();
    assert!(lab.guests.is_running(&machine.vm_id).await, "it stands still, and is not off");
    let begin = lab.clock.monotonic();
    lab.copy(&machine, 0, &lab.path(6, "copy.raw")).await;
    let stood = Duration::from_secs(30);
    until("it has stood still", async || lab.clock.monotonic().since(begin) > stood).await;
    lab.guests.resume(&machine.vm_id).await.unwrap();
    lab.guests.resume(&machine.vm_id).await.unwrap();
    let resumed = lab.clock.monotonic();
    let after: u64 = lab.run(&machine, up).await.parse().unwrap();
    // The login before and this one took their time in the machine, too.
    let most = lab.clock.monotonic().since(resumed).as_secs() + 15;
    assert!(after - before < most, "{before} s, then {after} s: its clock ran on");
    lab.guests.power_off(&machine.vm_id).await.unwrap();
    assert!(lab.guests.pause(&machine.vm_id).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs QEMU and the guest image: cargo xtask guest-image"]
async fn copies_of_different_instants_are_seen_to_disagree() {
    let lab = Lab::new(None);
    let original = lab.machine(3).await;
    lab.boot(&original).await;
    lab.run(&original, "echo 1000 >/etc/lab-writer").await;
    until("the writer writes", async || lab.ssh(&original, "lab-check").await.status.success())
        .await;
    let (os, data) = (lab.path(4, "os.raw"), lab.path(4, "data.raw"));
    lab.copy(&original, 0, &os).await;
    let between = lab.run(&original, "lab-check").await;
    until("steps happen in between", async || {
        let now = lab.run(&original, "lab-check").await;
        now.split_once("applied=").unwrap().1 != between.split_once("applied=").unwrap().1
    })
    .await;
    azdr_env::sleep(Duration::from_secs(1)).await;
    lab.copy(&original, 1, &data).await;
    let copy = lab.machine_on(4, os, data);
    lab.boot(&copy).await;
    let check = lab.ssh(&copy, "lab-check").await;
    assert_eq!(check.status.code(), Some(1), "{check:?}");
    assert!(console(&copy).contains("BROKEN"), "{}", console(&copy));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs QEMU and the guest image: cargo xtask guest-image"]
async fn a_destroyed_machine_says_so_and_can_be_brought_back() {
    let lab = Lab::new(None);
    let mut machine = lab.machine(5).await;
    lab.boot(&machine).await;
    lab.guests.start(&machine).await.unwrap();
    lab.run(&machine, "echo precious >/root/file; sync").await;
    let saved = lab.path(5, "saved.raw");
    lab.copy(&machine, 0, &saved).await;

    let wipe = "setsid sh -c 'sleep 1; dd if=/dev/zero of=/dev/vda bs=1M; echo gone >/dev/console' \
                >/dev/null 2>&1 </dev/null &";
    lab.run(&machine, wipe).await;
    until("the disk is wiped", async || console(&machine).contains("gone")).await;
    lab.guests.restart(&machine.vm_id).await.unwrap();
    let begin = lab.clock.monotonic();
    until("the machine is off", async || !lab.guests.is_running(&machine.vm_id).await).await;
    lab.tell("a wiped machine gives up after", begin);
    assert!(console(&machine).contains("LAB-BOOT-FAIL root mount"), "{}", console(&machine));
    lab.guests.power_off(&machine.vm_id).await.unwrap();
    assert!(lab.guests.restart(&machine.vm_id).await.is_err());

    machine.disks[0].path = saved;
    lab.boot(&machine).await;
    assert_eq!(lab.run(&machine, "cat /root/file").await, "precious");

    // Its own reboot keeps it running, its own poweroff ends it.
    let boot_id = "cat /proc/sys/kernel/random/boot_id";
    let before = lab.run(&machine, boot_id).await;
    lab.ssh(&machine, "reboot").await;
    until("it is another boot", async || {
        let now = lab.ssh(&machine, boot_id).await;
        now.status.success() && String::from_utf8_lossy(&now.stdout).trim() != before
    })
    .await;
    lab.ssh(&machine, "poweroff").await;
    until("the machine is off", async || !lab.guests.is_running(&machine.vm_id).await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs QEMU and the guest image: cargo xtask guest-image"]
async fn a_machine_that_dies_during_a_copy_leaves_no_copy() {
    let lab = Lab::new(None);
    let machine = lab.machine(6).await;
    // Large enough not to be copied before the signal arrives.
    let mut data = std::fs::File::create(&machine.disks[1].path).unwrap();
    let megabyte: Vec<u8> = (0..1_048_576u32).map(|i| (i % 251) as u8).collect();
    for _ in 0..768 {
        data.write_all(&megabyte).unwrap();
    }
    lab.guests.start(&machine).await.unwrap();
    let pid = lab.guests.process_id(&machine.vm_id).unwrap();
    let reached = Arc::new(AtomicBool::new(false));
    let at_instant = {
        let reached = Arc::clone(&reached);
        Box::new(move || {
            reached.store(true, Ordering::SeqCst);
            // SAFETY: a system call without pointers; the process is this test's own.
            unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
        })
    };
    let target = lab.path(6, "copy.raw");
    let source = &machine.disks[1].path;
    let copied = lab.guests.snapshot_disk(Some(&machine.vm_id), source, &target, at_instant).await;
    let error = format!("{:#}", copied.unwrap_err());
    assert!(error.contains("the machine ended"), "{error}");
    assert!(reached.load(Ordering::SeqCst));
    assert!(!target.exists());
    assert!(!lab.guests.is_running(&machine.vm_id).await);
    // Without a machine the disk is a file like any other.
    lab.copy(&machine, 1, &target).await;
    assert!(std::fs::read(source).unwrap() == std::fs::read(&target).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs QEMU and the guest image: cargo xtask guest-image"]
async fn a_guest_reaches_the_controller_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let controller = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 5000];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    stream.write_all(&buffer[..n]).unwrap();
                }
            });
        }
    });
    let lab = Lab::new(Some(controller));
    let machine = lab.machine(7).await;
    lab.boot(&machine).await;
    let begin = lab.clock.monotonic();
    let hello = lab.run(&machine, "echo hello | nc 10.0.2.100 9443").await;
    lab.tell("one echo, with its SSH", begin);
    assert_eq!(hello, "hello");
    lab.run(&machine, "dd if=/dev/urandom of=/tmp/a bs=1M count=4 2>/dev/null").await;
    let begin = lab.clock.monotonic();
    let sums = "nc 10.0.2.100 9443 </tmp/a | cmp - /tmp/a && echo same";
    assert_eq!(lab.run(&machine, sums).await, "same");
    lab.tell("4 MiB there and back", begin);
    let idle = "(echo early; sleep 20; echo late) | nc 10.0.2.100 9443";
    assert_eq!(lab.run(&machine, idle).await, "early\nlate");
    for elsewhere in [format!("10.0.2.2 {}", controller.port()), "10.0.2.3 53".into()] {
        let tried = lab.ssh(&machine, &format!("nc -w 3 {elsewhere} </dev/null")).await;
        assert!(!tried.status.success(), "{elsewhere}: {tried:?}");
    }
    until("no relay is left over", async || relays_of(controller) == 0).await;
}

/// How many relays to this address run.
fn relays_of(controller: SocketAddr) -> usize {
    let wanted = format!("\0{controller}\0");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let command_lines = processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
    command_lines.filter(|line| String::from_utf8_lossy(line).ends_with(&wanted)).count()
}
