//! Promise 1 after a loss of power: a separate file system is cut off from its disk without a last
//! flush (`EXT4_IOC_SHUTDOWN` of the kernel's fs/ext4, no log flush), and mounted again.
//! `DUOLOGUE_TEST_CUTS` is the number of rounds. It needs root and loop devices; `tests/run
//! power-cuts` runs it.

use std::{
    io::{Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rand::RngExt as _;

use crate::{
    crash::assert_sound,
    process::Process,
    support::{Figures, Load},
};

const SESSIONS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts file systems; tests/run power-cuts"]
async fn what_was_acknowledged_survives_the_loss_of_power() {
    let cuts = std::env::var("DUOLOGUE_TEST_CUTS").map_or(30, |cuts| cuts.parse().unwrap());
    let disk = Disk::new();
    let path = disk.folder().join("data/duologue.db");
    let store = format!("sqlite:{}", path.display());
    let reply = ["--simulated-reply", "You said: {text}", "--simulated-delay", "2ms"];
    let flags = [&["--store", &store, "--session-ttl", "24h"], &reply[..]].concat();
    let (mut figures, mut loads) = (Figures::default(), Vec::new());
    let mut switch = disk.mount();
    let mut process = Process::start(&flags).await;
    for _ in 0..cuts {
        let mut load = Load::begin(&process.address(), SESSIONS).await;
        let moment = Duration::from_millis(rand::rng().random_range(5..120));
        // The cut must hit the process at a random moment of real time.
        tokio::time::sleep(moment).await;
        // A machine without power acknowledges nothing. This process continues, and an fsync that
        // is running now may report a success that it did not have.
        load.stop_counting();
        switch.off();
        process.kill().await;
        load.ended().await;
        disk.unmount();
        switch = disk.mount();
        process = Process::start(&flags).await;
        load.compare(&process.address(), &mut figures).await;
        loads.push(load);
    }
    for load in &loads {
        load.compare_again(&process.address()).await;
    }
    process.kill().await;
    assert_sound(&path);
    drop(switch);
    disk.unmount();
    Figures::print(format_args!("{cuts} cuts of the power: {figures}"));
    assert!(figures.acknowledged > cuts, "there was hardly any load");
}

/// `relaxed` may lose what came last: an end, not something in the middle, and not the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts file systems; tests/run power-cuts"]
async fn what_relaxed_durability_loses_is_an_end() {
    let cuts = std::env::var("DUOLOGUE_TEST_CUTS").map_or(30, |cuts| cuts.parse().unwrap());
    let disk = Disk::new();
    let path = disk.folder().join("data/duologue.db");
    let store = format!("sqlite:{}", path.display());
    let reply = ["--simulated-reply", "You said: {text}", "--simulated-delay", "2ms"];
    let flags = [&["--store", &store, "--durability", "relaxed"], &reply[..]].concat();
    let (mut kept, mut lost) = (0, 0);
    let mut switch = disk.mount();
    let mut process = Process::start(&flags).await;
    for cut in 0..cuts {
        let mut load = Load::begin(&process.address(), SESSIONS).await;
        let moment = || Duration::from_millis(rand::rng().random_range(5..100));
        // Random moments of real time, as above.
        tokio::time::sleep(moment()).await;
        if cut % 3 > 0 {
            // The kernel writes by itself every half a minute, or sooner.
            run(Command::new("sync").arg("-f").arg(disk.folder()));
        }
        tokio::time::sleep(moment()).await;
        switch.off();
        process.kill().await;
        load.ended().await;
        disk.unmount();
        switch = disk.mount();
        process = Process::start(&flags).await;
        let (there, gone) = load.compare_but_for_the_end(&process.address()).await;
        kept += there;
        lost += gone;
    }
    process.kill().await;
    assert_sound(&path);
    drop(switch);
    disk.unmount();
    Figures::print(format_args!(
        "{cuts} cuts of the power, relaxed: {kept} acknowledged messages kept, {lost} lost, \
         each at an end; 0 twice, 0 gaps, 0 damaged files"
    ));
    assert!(kept > 0 && lost > 0, "nothing was tried: {kept} kept, {lost} lost");
}

/// A disk of its own: ext4 in a file.
struct Disk {
    place: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let disk = Self { place: tempfile::tempdir().unwrap() };
        std::fs::create_dir(disk.folder()).unwrap();
        let image = std::fs::File::create_new(disk.image()).unwrap();
        image.set_len(256 << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(disk.image()));
        disk
    }

    fn image(&self) -> std::path::PathBuf {
        self.place.path().join("disk.ext4")
    }

    fn folder(&self) -> std::path::PathBuf {
        self.place.path().join("mounted")
    }

    fn mount(&self) -> Switch {
        run(Command::new("mount").args(["-o", "loop"]).args([self.image(), self.folder()]));
        Switch::of(&self.folder())
    }

    fn unmount(&self) {
        run(Command::new("umount").arg(self.folder()));
    }
}

/// Cuts a disk off: a process that waits for the word.
struct Switch(Child);

impl Switch {
    fn of(folder: &Path) -> Self {
        // _IOR('X', 125, __u32) with EXT4_GOING_FLAGS_NOLOGFLUSH.
        const CUT: &str = "import fcntl, os, struct, sys\n\
            folder = os.open(sys.argv[1], os.O_RDONLY)\n\
            print('ready', flush=True)\n\
            if sys.stdin.readline(): fcntl.ioctl(folder, 0x8004587d, struct.pack('I', 2))";
        let mut python = Command::new("python3");
        python.args(["-c", CUT]).arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut switch = Self(python.spawn().unwrap());
        let mut ready = [0; 6];
        switch.0.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        switch
    }

    /// From here on nothing reaches the disk, not even what the kernel holds already.
    fn off(mut self) {
        self.0.stdin.take().unwrap().write_all(b"off\n").unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ended = self.0.wait();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // After a failed test it may still be mounted.
        if is_mounted(&self.folder()) {
            let _unmounted = Command::new("umount").arg("-l").arg(self.folder()).status();
        }
    }
}

fn is_mounted(folder: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == folder.to_str())
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}
