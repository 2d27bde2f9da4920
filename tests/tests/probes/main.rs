//! Forbidden calls and files, tried from inside the running gate and dataplane, and what others of
//! the same user can learn about these processes.

mod table;
mod visible;

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::libc;
use ocserv_tests::datapath::Datapath;
use ocserv_tests::injection::{self, Stopped};
use ocserv_tests::{Bed, Config, Login, Role, Server, process, scenario, traffic, wait};

use self::table::{Probe, Surroundings, harmful, harmless};
use self::visible::{descriptor_kinds, descriptors, environment, open_to_its_user, writable_code};

/// What the filter answers.
const REFUSED: i64 = -(libc::EPERM as i64);
/// What it answers to clone3, so that libc tries clone.
const ABSENT: i64 = -(libc::ENOSYS as i64);
/// uid and gid of the bed's `run-as-user` and `run-as-group`.
const RUN_AS: u32 = 65534;

/// Checks a running server with a client; afterwards packets must still pass, through the same
/// processes.
fn unharmed(
    change: impl FnOnce(Config) -> Config,
    check: impl FnOnce(&Bed, &Server) -> Result<()>,
) {
    scenario(|bed| {
        let server = Server::start(bed, &change(Config::new(bed)))?;
        let client = Login::new().connect_dtls(bed)?;
        let before = all_processes(&server)?;
        check(bed, &server)?;
        traffic::ping_all_ways(bed, &client)?;
        ensure!(all_processes(&server)? == before, "a process has died");
        Ok(())
    });
}

fn all_processes(server: &Server) -> Result<Vec<Vec<i32>>> {
    let roles = [Role::Secmod, Role::Gate, Role::Dataplane];
    roles
        .into_iter()
        .map(|role| server.wait_pids(role))
        .collect()
}

/// Stops each thread of a process in turn.
fn each_thread(pid: i32, mut work: impl FnMut(&Stopped) -> Result<()>) -> Result<()> {
    let mut stopped_threads = 0;
    for thread in injection::threads(pid)? {
        match Stopped::at_call(thread) {
            Ok(stopped) => work(&stopped)?,
            // Threads of a pool end when they have nothing to do.
            Err(_) if !injection::threads(pid)?.contains(&thread) => continue,
            Err(error) => return Err(error),
        }
        stopped_threads += 1;
    }
    ensure!(stopped_threads > 0, "process {pid} has no thread");
    Ok(())
}

fn surroundings<'a>(bed: &'a Bed, server: &Server, pid: i32) -> Result<Surroundings<'a>> {
    let open = descriptors(pid)?;
    let named = |prefix: &str| {
        let found = open.iter().find(|(_, target)| target.starts_with(prefix));
        found.map(|(number, _)| *number)
    };
    let socket = named("socket:").context("no socket")?;
    Ok(Surroundings {
        directory: bed.directory(),
        supervisor: server.pid(),
        socket,
        tun: named("/dev/net/tun").unwrap_or(socket),
    })
}

/// All probes of the table must fail in every thread.
fn refuses_everything(bed: &Bed, server: &Server, pid: i32) -> Result<()> {
    let mut probes = harmless();
    probes.extend(harmful(&surroundings(bed, server, pid)?));
    let mut passed = Vec::new();
    each_thread(pid, |thread| {
        ensure!(
            thread.call(libc::SYS_getpid, &[])? == i64::from(pid),
            "a call that is allowed does not work"
        );
        for Probe {
            text,
            gain,
            call,
            arguments,
        } in &probes
        {
            let result = thread.call(*call, arguments).context(*text)?;
            if result != REFUSED {
                passed.push(format!("{text} gives {result}: {gain}"));
            }
        }
        let clone3 = thread.call(libc::SYS_clone3, &[[0; 64].into(), 64.into()])?;
        ensure!(clone3 == ABSENT, "clone3 gives {clone3}");
        Ok(())
    })?;
    ensure!(passed.is_empty(), "not refused:\n{}", passed.join("\n"));
    Ok(())
}

/// Without isolation the harmless probes succeed: they can.
fn allows_the_harmless(pid: i32) -> Result<()> {
    let thread = Stopped::at_call(pid)?;
    for Probe {
        text,
        call,
        arguments,
        ..
    } in harmless()
    {
        let result = thread.call(call, &arguments).context(text)?;
        ensure!(result >= 0, "{text} gives {result} without isolation");
    }
    Ok(())
}

fn each_process(role: Role, server: &Server, check: impl FnMut(i32) -> Result<()>) -> Result<()> {
    server.wait_pids(role)?.into_iter().try_for_each(check)
}

#[test]
fn a_gate_can_make_no_forbidden_call() {
    unharmed(
        |config| config,
        |bed, server| {
            each_process(Role::Gate, server, |pid| {
                refuses_everything(bed, server, pid)
            })
        },
    );
}

#[test]
fn the_dataplane_can_make_no_forbidden_call() {
    unharmed(
        |config| config,
        |bed, server| {
            each_process(Role::Dataplane, server, |pid| {
                refuses_everything(bed, server, pid)
            })
        },
    );
}

/// With sockets past the host's stack.
fn with_sockets(config: Config) -> Config {
    config
        .set("xdp-forward", "direct")
        .set("xdp-lan-interface", "lan0")
        .set("xdp-sockets", "true")
}

fn wait_sockets(server: &Server) -> Result<()> {
    wait::until_true("a socket on each of two devices", wait::LONG, || {
        let sockets = Datapath::of(server).and_then(|now| now.number("Sockets"));
        sockets.is_ok_and(|count| count == 2)
    })
}

#[test]
fn nor_can_a_dataplane_with_sockets() {
    unharmed(with_sockets, |bed, server| {
        wait_sockets(server)?;
        each_process(Role::Dataplane, server, |pid| {
            refuses_everything(bed, server, pid)
        })
    });
}

#[test]
fn a_gate_that_is_not_isolated_can_make_the_harmless_ones() {
    unharmed(
        |config| config.set("isolate-workers", "false"),
        |_, server| each_process(Role::Gate, server, allows_the_harmless),
    );
}

#[test]
fn a_dataplane_that_is_not_isolated_can_make_the_harmless_ones() {
    unharmed(
        |config| config.set("isolate-workers", "false"),
        |_, server| each_process(Role::Dataplane, server, allows_the_harmless),
    );
}

/// A call that secmod and supervisor may make for us.
fn dumpable(pid: i32) -> Result<i64> {
    let ask = [libc::PR_GET_DUMPABLE.into(), 0.into()];
    Stopped::at_call(pid)?.call(libc::SYS_prctl, &ask)
}

/// CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF: the supervisor's alone.
const RULING_CAPABILITIES: u64 = 1 << 12 | 1 << 21 | 1 << 38 | 1 << 39;

#[test]
fn whoever_knows_keys_leaves_no_core() {
    unharmed(
        |config| config,
        |_, server| {
            let [secmod] = server.wait_pids(Role::Secmod)?[..] else {
                bail!("not one secmod");
            };
            ensure!(dumpable(secmod)? == 0, "secmod is dumpable");
            ensure!(dumpable(server.pid())? == 0, "the supervisor is dumpable");
            ensure!(
                dumpable(std::process::id() as i32).is_err(),
                "a process traces itself"
            );
            ensure!(
                process::status_field(secmod, "NoNewPrivs")? == "1",
                "new privileges"
            );
            let rights = process::status_field(secmod, "CapEff")?;
            let rights = u64::from_str_radix(&rights, 16)?;
            ensure!(
                rights & RULING_CAPABILITIES == 0,
                "secmod may load kernel programs: {rights:x}"
            );
            for role in [Role::Secmod, Role::Gate, Role::Dataplane] {
                each_process(role, server, |pid| {
                    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
                    let cores = limits
                        .lines()
                        .find(|line| line.starts_with("Max core file size"));
                    let words: Vec<_> = cores.unwrap_or_default().split_whitespace().collect();
                    ensure!(words[4..6] == ["0", "0"], "{role:?}: {words:?}");
                    Ok(())
                })?;
            }
            Ok(())
        },
    );
}

#[test]
fn others_of_the_same_user_see_nothing_of_gates_and_dataplane() {
    unharmed(
        |config| config,
        |_, server| {
            // Of a process like any other they do.
            let mut other = Command::new("sleep")
                .arg("60")
                .uid(RUN_AS)
                .gid(RUN_AS)
                .spawn()?;
            let open = open_to_its_user(other.id() as i32, RUN_AS);
            process::reap(&mut other);
            ensure!(open?.len() == 8, "the control is not open");
            for role in [Role::Gate, Role::Dataplane] {
                each_process(role, server, |pid| {
                    let open = open_to_its_user(pid, RUN_AS)?;
                    ensure!(open.is_empty(), "{role:?}: {open:?}");
                    let code = writable_code(pid)?;
                    ensure!(code.is_empty(), "{role:?}: {code:?}");
                    Ok(())
                })?;
            }
            Ok(())
        },
    );
}

#[test]
fn gates_and_dataplane_have_an_empty_root_directory() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        for role in [Role::Gate, Role::Dataplane] {
            each_process(role, &server, |pid| {
                // The server listens before all of its processes are confined; the filter is last.
                wait::until_true("a confined process", wait::SHORT, || {
                    process::status_field(pid, "Seccomp").is_ok_and(|mode| mode == "2")
                })?;
                for link in ["root", "cwd"] {
                    let directory = std::fs::read_link(format!("/proc/{pid}/{link}"))?;
                    let expected = format!("/proc/{pid}/fdinfo");
                    ensure!(
                        directory.to_str() == Some(&expected),
                        "{role:?}: {directory:?}"
                    );
                }
                Ok(())
            })?;
        }
        Ok(())
    });
}

/// Where the bed's server writes its log: a descriptor of all its processes.
const LOG: &str = "/ocserv.log";
/// Of both roles: standard input and output, channels to other processes, tokio's signal pipe, the
/// event loop and its wakers.
const COMMON: [&str; 5] = [
    "/dev/null",
    "anon_inode:[eventfd]",
    "anon_inode:[eventpoll]",
    "unix pair",
    "unix messages",
];

/// Checks that the processes of a role have descriptors of these kinds, and no others.
fn has_only(server: &Server, role: Role, own: &[&str]) -> Result<()> {
    let mut kinds = BTreeSet::new();
    each_process(role, server, |pid| {
        kinds.extend(descriptor_kinds(pid)?);
        Ok(())
    })?;
    kinds.retain(|kind| !kind.ends_with(LOG));
    let expected: BTreeSet<_> = COMMON.iter().chain(own).map(ToString::to_string).collect();
    ensure!(kinds == expected, "{role:?} has {kinds:?}");
    Ok(())
}

#[test]
fn gates_have_their_connections_and_channels_only() {
    unharmed(
        |config| config,
        |_, server| has_only(server, Role::Gate, &["tcp connection"]),
    );
}

#[test]
fn the_dataplane_has_its_ports_queues_and_channels_only() {
    unharmed(
        |config| config,
        |_, server| has_only(server, Role::Dataplane, &["udp bound", "/dev/net/tun"]),
    );
}

#[test]
fn a_dataplane_with_sockets_has_these_and_one_program_too() {
    unharmed(with_sockets, |_, server| {
        wait_sockets(server)?;
        // No table of `/proc` has sockets of AF_XDP.
        let own = [
            "udp bound",
            "/dev/net/tun",
            "unknown socket",
            "anon_inode:bpf-prog",
        ];
        has_only(server, Role::Dataplane, &own)
    });
}

/// Beginnings of the names of variables that gates and dataplane may have: settings of loader,
/// allocator and libraries, and their role.
const SETTINGS: [&str; 7] = [
    "GLIBC_TUNABLES",
    "LD_",
    "MALLOC_",
    "OCSERV_ROLE",
    "OPENSSL_",
    "RUST_",
    "TZ",
];

#[test]
fn gates_and_dataplane_inherit_no_foreign_variable() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        ensure!(
            environment(server.pid())?.contains("PATH"),
            "the control has no PATH"
        );
        for role in [Role::Gate, Role::Dataplane] {
            each_process(role, &server, |pid| {
                let mut names = environment(pid)?;
                names.retain(|name| !SETTINGS.iter().any(|start| name.starts_with(start)));
                ensure!(names.is_empty(), "{role:?}: {names:?}");
                Ok(())
            })?;
        }
        Ok(())
    });
}
