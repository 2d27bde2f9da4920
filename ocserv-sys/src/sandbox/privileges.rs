//! Identity and capabilities.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, chdir, chroot, setgroups, setresgid, setresuid};

use super::SandboxError;

/// Becomes `uid` and `gid` for good: no further groups, no capability, none to be had by exec. Keeps a
/// parent-death signal that was set before. [`forbid_dumps`] comes after it.
///
/// There is no RLIMIT_NPROC: the kernel counts all processes of the user, and threads too, so any
/// number would be wrong; the filter of system calls forbids processes.
///
/// # Errors
/// `EPERM` when not started as root.
pub fn drop_privileges(uid: u32, gid: u32) -> Result<(), SandboxError> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // A change of identity clears it.
    let death_signal = prctl::get_pdeathsig().map_err(failed("get parent-death signal"))?;
    setgroups(&[]).map_err(failed("setgroups"))?;
    setresgid(gid, gid, gid).map_err(failed("setresgid"))?;
    // The bounding set can only be emptied with CAP_SETPCAP, which goes with root.
    drop_bounding_set()?;
    setresuid(uid, uid, uid).map_err(failed("setresuid"))?;
    drop_capabilities()?;
    prctl::set_pdeathsig(death_signal).map_err(failed("set parent-death signal"))?;
    Ok(())
}

/// Gives up every capability and what exec could give, but keeps the identity.
///
/// # Errors
/// None in practice.
pub fn drop_capabilities() -> Result<(), SandboxError> {
    drop_bounding_set()?;
    forbid_new_privileges()?;
    clear_capability_sets().map_err(failed("capset"))?;
    Ok(())
}

/// No core dump, and no ptrace or look at `/proc/PID` by others of the same user.
///
/// # Errors
/// None in practice.
pub fn forbid_dumps() -> Result<(), SandboxError> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failed("RLIMIT_CORE"))?;
    prctl::set_dumpable(false).map_err(failed("not dumpable"))
}

/// Whoever this process executes can have no more rights than it.
///
/// # Errors
/// None in practice.
pub fn forbid_new_privileges() -> Result<(), SandboxError> {
    prctl::set_no_new_privs().map_err(failed("no_new_privs"))
}

/// Leaves no path to any file, device or named socket: a socket that sends datagrams (to the system's
/// log) could else be made to send to another name, which no filter of system calls sees.
///
/// The new root is the kernel's list of this process's own descriptors. Needs root, so it comes before
/// [`drop_privileges`]; `/proc` is gone afterwards too.
///
/// # Errors
/// `EPERM` without CAP_SYS_CHROOT, `ENOENT` without `/proc`.
pub fn leave_file_systems() -> Result<(), SandboxError> {
    chroot("/proc/self/fdinfo").map_err(failed("chroot"))?;
    chdir("/").map_err(failed("chdir"))
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> SandboxError {
    move |error| SandboxError::Privileges {
        what,
        error: error.into(),
    }
}

/// Without CAP_SETPCAP this is refused and of no use: the set matters only to those who can exec
/// something with file capabilities, which no_new_privs forbids.
fn drop_bounding_set() -> Result<(), SandboxError> {
    for capability in 0..64 {
        // SAFETY: PR_CAPBSET_DROP takes integers only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if result == 0 {
            continue;
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Beyond the last one that this kernel knows.
            Some(libc::EINVAL) => break,
            Some(libc::EPERM) => break,
            _ => return Err(failed("bounding set")(error)),
        }
    }
    Ok(())
}

/// What rules over network, kernel programs and the machine, by number (capabilities(7)):
/// CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF.
const RULING: [u32; 4] = [12, 21, 38, 39];

/// Gives up the rights over network devices and kernel programs, and those of a system administrator
/// that contain them. Files stay readable as for root.
///
/// # Errors
/// When the kernel refuses, which it does not do when rights are given up.
pub fn drop_ruling_capabilities() -> Result<(), SandboxError> {
    let mut sets = read_capability_sets().map_err(failed("capget"))?;
    for number in RULING {
        let keep = !(1 << (number % 32));
        let set = &mut sets[number as usize / 32];
        set.effective &= keep;
        set.permitted &= keep;
        set.inheritable &= keep;
    }
    write_capability_sets(&sets).map_err(failed("capset"))
}

/// `_LINUX_CAPABILITY_VERSION_3` of capset(2).
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

impl CapabilityHeader {
    const fn of_this_process() -> Self {
        Self {
            version: CAPABILITY_VERSION,
            pid: 0,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Empties effective, permitted and inheritable set; the ambient set goes with them.
fn clear_capability_sets() -> io::Result<()> {
    write_capability_sets(&[CapabilitySets::default(); 2])
}

fn read_capability_sets() -> io::Result<[CapabilitySets; 2]> {
    let mut sets = [CapabilitySets::default(); 2];
    let header = CapabilityHeader::of_this_process();
    // SAFETY: header and both sets are of the layout of capget(2) and live through the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) };
    if result == 0 {
        Ok(sets)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn write_capability_sets(sets: &[CapabilitySets; 2]) -> io::Result<()> {
    let header = CapabilityHeader::of_this_process();
    // SAFETY: header and both sets are of the layout of capset(2) and live through the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
