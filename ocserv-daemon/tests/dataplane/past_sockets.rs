//! Sockets past the host's stack, as the supervisor hands them over. Packets by them are the black-box tests' matter.

use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;
use ocserv_daemon::ipc::dataplane::{FromDataplane, ToDataplane};
use ocserv_sys::xsk;

use super::bed::{Bed, eventually};

/// The loopback device of each network.
const LOOPBACK: u32 = 1;

fn add(bed: &Bed, thread: u32, queue: u32, socket: BorrowedFd<'_>) -> FromDataplane {
    let added = ToDataplane::SocketAdded {
        thread,
        ifindex: LOOPBACK,
        queue,
        is_lan: false,
    };
    bed.tell(&added, &[socket]);
    bed.hear()
}

/// Opens a socket of a thread's memory; `None`: the queue is taken.
fn open(bed: &mut Bed, thread: usize) -> Option<std::os::fd::OwnedFd> {
    let memory = &mut bed.frames[thread];
    let opened = xsk::open(memory, LOOPBACK, 0);
    memory.release();
    match opened {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => None,
        opened => Some(opened.unwrap()),
    }
}

pub fn are_served_until_they_are_gone() {
    let mut bed = Bed::with_frames();
    for thread in [0, 1] {
        let mut socket = None;
        eventually("a free queue", || {
            socket = open(&mut bed, thread);
            socket.is_some()
        });
        let answer = add(&bed, thread as u32, 0, socket.unwrap().as_fd());
        let is_ready = |answer| {
            matches!(
                answer,
                FromDataplane::SocketReady {
                    ifindex: LOOPBACK,
                    queue: 0
                }
            )
        };
        assert!(is_ready(answer));
        assert!(open(&mut bed, thread).is_none(), "nobody has the socket");
        bed.tell(&ToDataplane::SocketsGone { ifindex: LOOPBACK }, &[]);
    }
}

pub fn of_other_kinds_are_refused() {
    let bed = Bed::with_frames();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let answer = add(&bed, 1, 7, other.as_fd());
    let FromDataplane::SocketRefused {
        ifindex,
        queue,
        error,
    } = answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!((ifindex, queue), (LOOPBACK, 7));
    assert!(!error.is_empty());
}
