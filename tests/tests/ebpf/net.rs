//! A network namespace of its own for each test that asks the routing table. It has no name and ends with
//! the thread that is in it.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};

/// Ethernet address of the device towards clients.
pub const WAN_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// Of the router behind it.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
/// Of the device towards the LAN.
pub const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
/// Of the host behind it.
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];

/// Devices, addresses and neighbours. Nobody listens behind the devices.
const DEVICES: &str = "\
link set lo up
link add wan address 02:00:00:00:01:01 type veth peer name wan-end
link add lan address 02:00:00:00:02:01 type veth peer name lan-end
link add tun0 type veth peer name tun-end
link set wan-end mtu 2000 up
link set lan-end up
link set tun-end up
link set wan mtu 2000 up
link set lan up
link set tun0 up
address add 198.51.100.1/24 dev wan
address add 2001:db8::1/64 dev wan nodad
address add 10.20.0.1/16 dev lan
address add fd00:20::1/64 dev lan nodad
address add 10.9.0.1/24 dev tun0
route add fd00::/112 dev tun0
route add 192.0.2.0/24 via 198.51.100.254
neighbour add 198.51.100.254 lladdr 02:00:00:00:01:02 dev wan nud permanent
neighbour add 2001:db8::77 lladdr 02:00:00:00:01:02 dev wan nud permanent
neighbour add 10.20.0.2 lladdr 02:00:00:00:02:02 dev lan nud permanent
neighbour add fd00:20::2 lladdr 02:00:00:00:02:02 dev lan nud permanent
";

/// Runs `work` within a namespace with those devices.
pub fn alone<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    empty(|| {
        ip(DEVICES)?;
        work()
    })
}

/// Runs `work` within a namespace that has nothing yet; it forwards.
pub fn empty<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
            work()
        });
        match inside.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Runs lines of `ip` in the caller's namespace.
pub fn ip(lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped());
    let mut child = command.spawn().context("ip")?;
    let mut input = child.stdin.take().context("ip has no input")?;
    input.write_all(lines.as_bytes())?;
    drop(input);
    ensure!(child.wait()?.success(), "ip refuses a line");
    Ok(())
}

/// Number of a device.
pub fn ifindex(name: &str) -> Result<u32> {
    if_nametoindex(name).with_context(|| name.to_owned())
}
