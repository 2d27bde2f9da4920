//! What the processes that read foreign bytes may do.

use anyhow::Result;
use ocserv_tests::{Config, Login, Role, Server, process, scenario};

const SECCOMP_FILTER: &str = "2";
const NO_CAPABILITY: &str = "0000000000000000";
/// uid of `nobody`, which the bed's configuration names.
const RUN_AS: &str = "65534";

/// Checks every process of a role while a client is connected.
fn each_process(role: Role, check: impl Fn(i32) -> Result<()>) {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let _client = Login::new().connect_dtls(bed)?;
        server.wait_pids(role)?.into_iter().try_for_each(&check)
    });
}

fn assert_confined(pid: i32) -> Result<()> {
    for kind in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(process::status_field(pid, kind)?, NO_CAPABILITY, "{kind}");
    }
    for kind in ["Uid", "Gid"] {
        let ids = process::status_field(pid, kind)?;
        let all_equal = ids.split_whitespace().all(|id| id == RUN_AS);
        assert!(all_equal, "{kind}: {ids}");
    }
    assert_eq!(
        process::status_field(pid, "Groups")?.trim_matches(['\0', ' ']),
        "",
        "groups"
    );
    assert_eq!(process::status_field(pid, "Seccomp")?, SECCOMP_FILTER);
    assert_eq!(process::status_field(pid, "NoNewPrivs")?, "1");
    Ok(())
}

/// No descriptor may name a file: sockets, pipes, timers, shared memory and the tun device only.
fn assert_no_files(pid: i32) -> Result<()> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let target = std::fs::read_link(entry?.path())?.display().to_string();
        let is_nameless = [
            "socket:",
            "pipe:",
            "anon_inode:",
            "/memfd:",
            "/dev/null",
            "/dev/net/tun",
        ]
        .iter()
        .any(|allowed| target.starts_with(allowed));
        // Where the bed's server writes its log.
        let is_log = target.ends_with("/ocserv.log");
        assert!(is_nameless || is_log, "process {pid} has {target} open");
    }
    Ok(())
}

#[test]
fn gates_have_no_privilege() {
    each_process(Role::Gate, assert_confined);
}

#[test]
fn the_dataplane_has_no_privilege() {
    each_process(Role::Dataplane, assert_confined);
}

#[test]
fn gates_have_no_file_open() {
    each_process(Role::Gate, assert_no_files);
}

#[test]
fn the_dataplane_has_no_file_open() {
    each_process(Role::Dataplane, assert_no_files);
}

#[test]
fn gates_cannot_be_dumped() {
    // The kernel gives the files of a process that is not dumpable to root.
    each_process(Role::Gate, |pid| {
        use std::os::unix::fs::MetadataExt;
        let owner = std::fs::metadata(format!("/proc/{pid}/maps"))?.uid();
        assert_eq!(owner, 0);
        Ok(())
    });
}
