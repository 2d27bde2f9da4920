//! Who works on which processor, and what the gateway's share of it cost.
//!
//! A packet that passes a veth pair is received on the sender's processor, which would do the
//! gateway's work on the load's. Each device therefore gets a kernel thread of its own for what it
//! receives (threaded NAPI; veth has NAPI with GRO on), and each thread stays where its machine is.
//! All of the gateway's work is then done by threads that can be told apart, and the kernel counts
//! their time in nanoseconds, whatever else runs on the machine.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use ocserv_tests::bed::Bed;
use ocserv_tests::namespace::Namespace;
use ocserv_tests::{process, wait};

use crate::side::client_cpus;

/// A device that has handed packets over looks again after this time before it wakes its thread for
/// each packet, as the interrupt moderation of a network card does. Without it the cost of a packet
/// depends on how fast the load comes, which is slower than the gateway.
const PAUSE: Duration = Duration::from_micros(100);
/// So often it finds nothing before it does.
const EMPTY_LOOKS: u128 = 1;
/// The gateway's devices in a bed with one client.
const GATEWAY_DEVICES: [&str; 2] = ["wan0", "lan0"];

/// Gives each device of the bed its thread, and returns those of the gateway, which work on `cpus`.
///
/// # Errors
/// When the kernel has no threaded NAPI (before Linux 5.12), or a thread cannot be moved.
pub fn place(bed: &Bed, cpus: &[usize]) -> Result<Vec<Pid>> {
    bed.complete_checksums()?;
    for end in [bed.client(0), bed.lan()] {
        receive_on(end, "eth0", &client_cpus()?)?;
    }
    let devices = GATEWAY_DEVICES.into_iter();
    let mut threads = devices
        .map(|device| receive_on(bed.gateway(), device, cpus))
        .collect::<Result<Vec<_>>>()?;
    // Work that a thread had to leave behind is done here.
    for cpu in cpus {
        threads.extend(kernel_threads(&format!("ksoftirqd/{cpu}")));
    }
    Ok(threads)
}

/// Has the gateway's devices merge UDP that is forwarded, which the kernel does not by default.
///
/// # Errors
/// Before Linux 5.12.
pub fn merge_udp(bed: &Bed) -> Result<()> {
    for device in GATEWAY_DEVICES {
        let arguments = ["-K", device, "rx-udp-gro-forwarding", "on"];
        bed.gateway().must("ethtool", &arguments)?;
    }
    Ok(())
}

/// Has a device receive on these processors, by a thread of its own.
fn receive_on(namespace: &Namespace, device: &str, cpus: &[usize]) -> Result<Pid> {
    let prefix = format!("napi/{device}-");
    let before = kernel_threads(&prefix);
    namespace.must("ethtool", &["-K", device, "gro", "on", "tso", "off"])?;
    set(
        namespace,
        device,
        &[
            ("gro_flush_timeout", PAUSE.as_nanos()),
            ("napi_defer_hard_irqs", EMPTY_LOOKS),
            ("threaded", 1),
        ],
    )?;
    let mut found = Vec::new();
    wait::until_true(&format!("a thread {prefix}"), wait::SHORT, || {
        found = kernel_threads(&prefix);
        found.retain(|pid| !before.contains(pid));
        !found.is_empty()
    })?;
    let [thread] = found[..] else {
        bail!("another bed was set up meanwhile, or {device} has several queues");
    };
    let mut set = CpuSet::new();
    cpus.iter().try_for_each(|cpu| set.set(*cpu))?;
    sched_setaffinity(thread, &set).context("placing a kernel thread")?;
    Ok(thread)
}

/// Has the bed's devices pause for so long, where delays are what is measured.
///
/// # Errors
/// When a setting is refused.
pub fn pause(bed: &Bed, pause: Duration) -> Result<()> {
    let ends = [bed.client(0), bed.lan()].map(|end| (end, "eth0"));
    let gateway = GATEWAY_DEVICES.map(|device| (bed.gateway(), device));
    let setting = ("gro_flush_timeout", pause.as_nanos());
    ends.into_iter()
        .chain(gateway)
        .try_for_each(|(namespace, device)| set(namespace, device, &[setting]))
}

/// Writes settings of a device.
fn set(namespace: &Namespace, device: &str, settings: &[(&str, u128)]) -> Result<()> {
    let writes = settings.iter();
    let writes = writes.map(|(name, value)| format!(" && echo {value} > {name}"));
    // The thread's own /sys shows the devices of another namespace.
    let script = format!("cd /sys/class/net/{device}{}", writes.collect::<String>());
    let name = namespace.name();
    process::run("ip", &["netns", "exec", name, "sh", "-c", &script])?;
    Ok(())
}

fn kernel_threads(prefix: &str) -> Vec<Pid> {
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let mut pids = process::all_pids();
    pids.retain(|pid| name(*pid).starts_with(prefix));
    pids.into_iter().map(Pid::from_raw).collect()
}

/// The processor time of some processes and kernel threads.
pub struct Meter {
    clocks: Vec<ClockId>,
}

impl Meter {
    /// Of these, with all their threads.
    ///
    /// # Errors
    /// When one of them has ended.
    pub fn new(pids: impl IntoIterator<Item = Pid>) -> Result<Self> {
        let clocks = pids.into_iter().map(clock_getcpuclockid);
        let clocks = clocks.collect::<nix::Result<_>>().context("CPU clock")?;
        Ok(Self { clocks })
    }

    /// What they have used until now.
    ///
    /// # Errors
    /// When one of them has ended.
    pub fn read(&self) -> Result<Duration> {
        let times = self.clocks.iter().map(|clock| Ok(clock.now()?));
        times.map(|time| time.map(Duration::from)).sum()
    }

    /// The same of those that have not ended, where some may: a server with a process for each connection.
    pub fn read_living(&self) -> Duration {
        let times = self.clocks.iter().filter_map(|clock| clock.now().ok());
        times.map(Duration::from).sum()
    }
}

/// Sleeps until what was just set up has come to rest.
pub fn settle() {
    const SETTLE: Duration = Duration::from_millis(100);
    thread::sleep(SETTLE);
}
