//! System calls made inside a running process, from outside (ptrace): what would happen if an
//! attacker ran code there.
//!
//! A thread that waits in a system call stands right behind a `syscall` instruction. It is set
//! back onto it with other registers, takes one step, and gets its registers and its stack back;
//! the kernel then goes on with the call that was interrupted. The process notices nothing.

use std::fs::File;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::libc::{self, c_long, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::wait;

/// The `syscall` instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Bytes below the stack pointer that belong to the function (System V ABI 3.2.2).
const RED_ZONE: u64 = 128;
/// Room for what arguments point to.
const SCRATCH: usize = 2048;
/// Tells the kernel that no system call was interrupted.
const NO_CALL: u64 = u64::MAX;
const MAX_ARGUMENTS: usize = 6;

/// An argument of a system call.
#[derive(Clone, Debug)]
pub enum Argument {
    /// A number.
    Number(u64),
    /// A pointer to these bytes, which are put on the thread's stack.
    Bytes(Vec<u8>),
}

impl From<i32> for Argument {
    fn from(number: i32) -> Self {
        Self::Number(i64::from(number) as u64)
    }
}

impl From<u32> for Argument {
    fn from(number: u32) -> Self {
        Self::Number(u64::from(number))
    }
}

impl From<u64> for Argument {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Argument {
    fn from(text: &str) -> Self {
        Self::Bytes([text.as_bytes(), b"\0"].concat())
    }
}

impl From<&Path> for Argument {
    fn from(path: &Path) -> Self {
        Self::from(path.display().to_string().as_str())
    }
}

impl<const N: usize> From<[u8; N]> for Argument {
    fn from(bytes: [u8; N]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

/// The threads of a process.
///
/// # Errors
/// When it has gone.
pub fn threads(pid: i32) -> Result<Vec<i32>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

/// A thread that waits in a system call and is stopped there. Dropping it lets it go on. Belongs
/// to the thread of the test that made it.
#[derive(Debug)]
pub struct Stopped {
    thread: Pid,
    registers: user_regs_struct,
    memory: File,
    scratch: u64,
    stack: Vec<u8>,
    only_here: PhantomData<*const ()>,
}

impl Stopped {
    /// Stops a thread as soon as it waits in a system call.
    ///
    /// # Errors
    /// Without root, when it is gone, or when it always computes.
    pub fn at_call(thread: i32) -> Result<Self> {
        let thread = Pid::from_raw(thread);
        ptrace::seize(thread, Options::empty()).context("seize")?;
        let registers = rest(thread).inspect_err(|_| {
            // It fails for a thread that is gone, and then there is nothing to let go.
            let _ = ptrace::detach(thread, None);
        })?;
        let scratch = (registers.rsp - RED_ZONE - SCRATCH as u64) & !0xf;
        let mut stopped = Self {
            thread,
            registers,
            memory: memory(thread)?,
            scratch,
            stack: vec![0; SCRATCH],
            only_here: PhantomData,
        };
        stopped.memory.read_exact_at(&mut stopped.stack, scratch)?;
        Ok(stopped)
    }

    /// Makes a system call and returns its result, an error as a negative errno.
    ///
    /// # Errors
    /// When the process does not survive it.
    pub fn call(&self, number: c_long, arguments: &[Argument]) -> Result<i64> {
        ensure!(arguments.len() <= MAX_ARGUMENTS, "too many arguments");
        let mut values = [0; MAX_ARGUMENTS];
        let mut used = 0;
        for (value, argument) in values.iter_mut().zip(arguments) {
            *value = match argument {
                Argument::Number(number) => *number,
                Argument::Bytes(bytes) => {
                    let address = self.scratch + used as u64;
                    used = (used + bytes.len()).next_multiple_of(16);
                    ensure!(used <= SCRATCH, "arguments too long");
                    self.memory.write_all_at(bytes, address)?;
                    address
                }
            };
        }
        let [rdi, rsi, rdx, r10, r8, r9] = values;
        let call = user_regs_struct {
            rip: self.registers.rip - SYSCALL.len() as u64,
            rax: number as u64,
            orig_rax: NO_CALL,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..self.registers
        };
        ptrace::setregs(self.thread, call)?;
        ptrace::step(self.thread, None)?;
        match wait_stop(self.thread)? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            other => bail!("instead of one step: {other:?}"),
        }
        let after = ptrace::getregs(self.thread)?;
        ensure!(after.rip == self.registers.rip, "stepped elsewhere");
        self.memory.write_all_at(&self.stack, self.scratch)?;
        Ok(after.rax as i64)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Both fail only when the process has gone.
        let _ = ptrace::setregs(self.thread, self.registers);
        let _ = ptrace::detach(self.thread, None);
    }
}

fn memory(thread: Pid) -> Result<File> {
    let path = format!("/proc/{thread}/mem");
    File::options()
        .read(true)
        .write(true)
        .open(&path)
        .context(path)
}

/// Interrupts until the thread stands behind a `syscall` instruction.
fn rest(thread: Pid) -> Result<user_regs_struct> {
    let memory = memory(thread)?;
    wait::until(&format!("thread {thread} to wait"), wait::SHORT, || {
        interrupted(thread, &memory).transpose()
    })?
}

/// `None`: it was computing, and goes on.
fn interrupted(thread: Pid, memory: &File) -> Result<Option<user_regs_struct>> {
    ptrace::interrupt(thread).context("interrupt")?;
    match wait_stop(thread)? {
        WaitStatus::PtraceEvent(_, Signal::SIGTRAP, libc::PTRACE_EVENT_STOP) => {}
        other => bail!("instead of a stop: {other:?}"),
    }
    let registers = ptrace::getregs(thread)?;
    let mut instruction = [0; SYSCALL.len()];
    memory.read_exact_at(
        &mut instruction,
        registers.rip.wrapping_sub(SYSCALL.len() as u64),
    )?;
    if instruction == SYSCALL && registers.orig_rax != NO_CALL {
        return Ok(Some(registers));
    }
    ptrace::cont(thread, None)?;
    Ok(None)
}

/// Without a pause between two looks: a step takes less.
fn wait_stop(thread: Pid) -> Result<WaitStatus> {
    let deadline = Instant::now() + wait::SHORT;
    loop {
        let options = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
        match waitpid(thread, Some(options)).context("waitpid")? {
            WaitStatus::StillAlive if Instant::now() < deadline => std::thread::yield_now(),
            WaitStatus::StillAlive => bail!("thread {thread} does not stop"),
            status => return Ok(status),
        }
    }
}
