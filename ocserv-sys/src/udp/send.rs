//! Sending.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::SockAddr;

use super::message::{Control, append_segment, write_control};
use super::runs::run_len;

/// Where a datagram goes, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The client.
    pub peer: SocketAddr,
    /// Source address; `None`: as routing says.
    pub source: Option<IpAddr>,
    /// How it is to be treated on its way.
    pub marking: Option<Marking>,
}

/// What decides about a datagram's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marking {
    /// TOS or traffic class byte, seen by all routers.
    Tos(u8),
    /// `SO_PRIORITY`, 0 to 6, seen by this host's queues. Only where [`super::takes_priority`].
    Priority(u8),
}

/// What became of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SendReport {
    /// Datagrams that the kernel took.
    pub sent: usize,
    /// Datagrams lost because the socket was full, or the kernel had no memory. What a full queue of a
    /// device drops is not told to a socket without `IP_RECVERR`, so it counts as sent.
    pub full: usize,
    /// Datagrams refused for another reason (no route, firewall).
    pub refused: usize,
    /// Why the last datagram that was lost was lost.
    pub error: Option<i32>,
}

/// Datagrams to send. Each carries a tag of the caller, by which those too long for the path are
/// named afterwards.
pub struct TxBatch {
    storage: Vec<u8>,
    destinations: Vec<Destination>,
    names: Vec<SockAddr>,
    controls: Vec<Control>,
    control_lens: Vec<usize>,
    lens: Vec<usize>,
    tags: Vec<u32>,
    parts: Vec<libc::iovec>,
    /// The messages that are to be sent, and what each has in it.
    headers: Vec<libc::mmsghdr>,
    runs: Vec<Run>,
    too_long: Vec<u32>,
    lost: Vec<u32>,
    capacity: usize,
    buffer_len: usize,
}

/// Datagrams that go as one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: usize,
    len: usize,
}

impl TxBatch {
    /// Room for `capacity` datagrams of at most `buffer_len` bytes.
    pub fn new(capacity: usize, buffer_len: usize) -> Self {
        let part = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: mmsghdr is integers and pointers; zero is a value of each.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Self {
            storage: vec![0; capacity * buffer_len],
            destinations: Vec::with_capacity(capacity),
            names: Vec::with_capacity(capacity),
            controls: vec![Control::EMPTY; capacity],
            control_lens: Vec::with_capacity(capacity),
            lens: Vec::with_capacity(capacity),
            tags: Vec::with_capacity(capacity),
            parts: vec![part; capacity],
            headers: vec![header; capacity],
            runs: Vec::with_capacity(capacity),
            too_long: Vec::with_capacity(capacity),
            lost: Vec::with_capacity(capacity),
            capacity,
            buffer_len,
        }
    }

    /// Number of datagrams waiting.
    pub fn len(&self) -> usize {
        self.lens.len()
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    /// Number of datagrams that there is still room for.
    pub fn room(&self) -> usize {
        self.capacity - self.lens.len()
    }

    /// The next free buffer, to be written and then [committed](Self::commit). `None`: full.
    pub fn buffer(&mut self) -> Option<&mut [u8]> {
        let index = self.lens.len();
        if index == self.capacity {
            return None;
        }
        let start = index * self.buffer_len;
        Some(&mut self.storage[start..start + self.buffer_len])
    }

    /// Adds the first `len` bytes of the buffer just written.
    ///
    /// # Panics
    /// If there was no free buffer or `len` exceeds it.
    pub fn commit(&mut self, len: usize, to: &Destination, tag: u32) {
        assert!(len <= self.buffer_len && self.lens.len() < self.capacity);
        let index = self.lens.len();
        let ipv4 = to.peer.is_ipv4();
        let control_len = write_control(&mut self.controls[index], to.source, ipv4, to.marking);
        self.destinations.push(*to);
        self.names.push(SockAddr::from(to.peer));
        self.control_lens.push(control_len);
        self.lens.push(len);
        self.tags.push(tag);
    }

    /// Tags of the datagrams of the last batch that were too long for the path (EMSGSIZE).
    pub fn too_long(&self) -> &[u32] {
        &self.too_long
    }

    /// Tags of the datagrams of the last batch that were lost for another reason.
    pub fn lost(&self) -> &[u32] {
        &self.lost
    }

    /// Sends and empties the batch, runs as one message each while `cuts_runs`, which becomes false
    /// when the kernel says that it cannot cut them.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, cuts_runs: &AtomicBool) -> SendReport {
        self.send_by(cuts_runs, |headers| {
            let count = headers.len() as libc::c_uint;
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: `plan` made these headers point at buffers, names and control messages of the
            // batch with their true lengths; nothing moved since.
            let sent =
                unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, flags) };
            usize::try_from(sent).map_err(|_| io::Error::last_os_error())
        })
    }

    /// [`Self::send`] with `submit` in place of sendmmsg(2).
    fn send_by(
        &mut self,
        cuts_runs: &AtomicBool,
        mut submit: impl FnMut(&mut [libc::mmsghdr]) -> io::Result<usize>,
    ) -> SendReport {
        self.too_long.clear();
        self.lost.clear();
        let mut report = SendReport::default();
        self.plan(0, 0, cuts_runs);
        let mut next = 0;
        while let Some(run) = self.runs.get(next).copied() {
            match submit(&mut self.headers[next..self.runs.len()]) {
                Ok(sent) => {
                    let taken = self.runs[next..].iter().take(sent);
                    report.sent += taken.map(|run| run.len).sum::<usize>();
                    next += sent.max(1);
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => {
                        report.error = Some(libc::EAGAIN);
                        self.lose_from(run.first, &mut report, &mut next);
                    }
                    code if run.len > 1 => {
                        if says_cannot_cut(code) {
                            cuts_runs.store(false, Ordering::Relaxed);
                        }
                        // Each of them gets an answer of its own.
                        self.plan(run.first, run.first + run.len, cuts_runs);
                        next = 0;
                    }
                    Some(libc::EMSGSIZE) => {
                        self.too_long.push(self.tags[run.first]);
                        next += 1;
                    }
                    code @ Some(libc::ENOBUFS | libc::ENOMEM) => {
                        report.error = code;
                        self.lose_from(run.first, &mut report, &mut next);
                    }
                    // Also errors of earlier datagrams, told once: this one is not tried again.
                    code => {
                        self.lost.push(self.tags[run.first]);
                        report.error = code;
                        report.refused += 1;
                        next += 1;
                    }
                },
            }
        }
        self.clear();
        report
    }

    /// Gives up on this datagram and all behind it: there is no room for the rest either.
    fn lose_from(&mut self, first: usize, report: &mut SendReport, next: &mut usize) {
        self.lost.extend_from_slice(&self.tags[first..]);
        report.full += self.lens.len() - first;
        *next = self.runs.len();
    }

    /// Makes messages of the datagrams from `first` on; those before `alone_until` get one each, and
    /// so do all if the kernel cannot cut runs.
    fn plan(&mut self, first: usize, alone_until: usize, cuts_runs: &AtomicBool) {
        let count = self.lens.len();
        let cuts = cuts_runs.load(Ordering::Relaxed);
        let alone_until = if cuts { alone_until } else { count };
        self.point_at_buffers();
        self.runs.clear();
        let mut first = first;
        while first < count {
            let len = if first < alone_until {
                1
            } else {
                let lens = self.lens[first..].iter().copied();
                run_len(lens.zip(&self.destinations[first..]))
            };
            let run = Run { first, len };
            self.write_header(self.runs.len(), run);
            self.runs.push(run);
            first += len;
        }
    }

    fn point_at_buffers(&mut self) {
        let buffers = self.storage.chunks_exact_mut(self.buffer_len);
        for ((part, buffer), len) in self.parts.iter_mut().zip(buffers).zip(&self.lens) {
            part.iov_base = buffer.as_mut_ptr().cast();
            part.iov_len = *len;
        }
    }

    fn write_header(&mut self, index: usize, run: Run) {
        let name = &self.names[run.first];
        let control = &mut self.controls[run.first];
        let mut control_len = self.control_lens[run.first];
        if run.len > 1 {
            // Two of more than 65,535 bytes would not be a run.
            let segment = self.lens[run.first] as u16;
            control_len = append_segment(control, control_len, segment);
        }
        let header = &mut self.headers[index].msg_hdr;
        // The kernel only reads the name; the field's type is that of receiving.
        header.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_namelen = name.len();
        header.msg_iov = self.parts[run.first..run.first + run.len].as_mut_ptr();
        header.msg_iovlen = run.len as _;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control_len as _;
    }

    fn clear(&mut self) {
        self.destinations.clear();
        self.names.clear();
        self.control_lens.clear();
        self.lens.clear();
        self.tags.clear();
    }
}

/// Whether an error of a run is about runs as such: routes through IPsec, and on kernels before 6.11
/// devices that leave checksums to the kernel, take none. Not EINVAL: that is what kernels before
/// 6.14 say of a run whose datagrams are too long for the path, which is about one client.
fn says_cannot_cut(code: Option<i32>) -> bool {
    matches!(code, Some(libc::EIO | libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths that go to one destination, tags from 0.
    fn batch(lens: &[usize]) -> TxBatch {
        let to = Destination {
            peer: "192.0.2.1:443".parse().unwrap(),
            source: None,
            marking: None,
        };
        let mut batch = TxBatch::new(lens.len(), 2000);
        for (tag, len) in lens.iter().enumerate() {
            batch.commit(*len, &to, tag as u32);
        }
        batch
    }

    /// Sends with these answers in turn. What each call offered is returned: datagrams a message.
    fn send(
        batch: &mut TxBatch,
        cuts_runs: &AtomicBool,
        answers: &[Result<usize, i32>],
    ) -> (SendReport, Vec<Vec<usize>>) {
        let mut answers = answers.iter();
        let mut offered = Vec::new();
        let report = batch.send_by(cuts_runs, |headers| {
            offered.push(headers.iter().map(|h| h.msg_hdr.msg_iovlen).collect());
            let answer = answers.next().expect("an answer for each call");
            answer.map_err(io::Error::from_raw_os_error)
        });
        assert!(answers.next().is_none(), "fewer calls than answers");
        assert!(batch.is_empty());
        (report, offered)
    }

    fn report(sent: usize, full: usize, refused: usize) -> SendReport {
        SendReport {
            sent,
            full,
            refused,
            error: None,
        }
    }

    #[test]
    fn messages_that_were_not_taken_are_offered_again() {
        let cuts = AtomicBool::new(true);
        let mut batch = batch(&[9, 9, 5, 7, 7, 8]);
        let answers = [Ok(1), Err(libc::EINTR), Ok(2)];
        let (sent, offered) = send(&mut batch, &cuts, &answers);
        assert_eq!(sent, report(6, 0, 0));
        assert_eq!(offered, [vec![3, 2, 1], vec![2, 1], vec![2, 1]]);
        assert_eq!((batch.too_long(), batch.lost()), (&[][..], &[][..]));
    }

    #[test]
    fn a_run_that_is_too_long_goes_one_by_one_and_those_behind_it_as_runs() {
        for error in [libc::EMSGSIZE, libc::EINVAL] {
            let cuts = AtomicBool::new(true);
            let mut batch = batch(&[5, 5, 9, 9, 4, 5, 5]);
            let answers = [
                Ok(1),
                Err(error),
                Err(libc::EMSGSIZE),
                Err(libc::EMSGSIZE),
                Ok(2),
            ];
            let (sent, offered) = send(&mut batch, &cuts, &answers);
            assert_eq!(sent, report(5, 0, 0));
            let behind: [&[usize]; 5] = [&[2, 3, 2], &[3, 2], &[1, 1, 1, 2], &[1, 1, 2], &[1, 2]];
            assert_eq!(offered, behind);
            assert_eq!((batch.too_long(), batch.lost()), (&[2, 3][..], &[][..]));
            assert!(
                cuts.load(Ordering::Relaxed),
                "the next client is not punished"
            );
        }
    }

    #[test]
    fn a_device_that_cuts_no_runs_is_remembered() {
        for error in [libc::EIO, libc::EOPNOTSUPP] {
            let cuts = AtomicBool::new(true);
            let mut batch = batch(&[5, 5, 9, 9]);
            let (sent, offered) = send(&mut batch, &cuts, &[Ok(1), Err(error), Ok(2)]);
            assert_eq!(sent, report(4, 0, 0));
            assert_eq!(offered, [vec![2, 2], vec![2], vec![1, 1]]);
            assert!(!cuts.load(Ordering::Relaxed));
        }
        let cuts = AtomicBool::new(false);
        let (sent, offered) = send(&mut batch(&[5, 5, 5]), &cuts, &[Ok(3)]);
        assert_eq!((sent, offered), (report(3, 0, 0), vec![vec![1, 1, 1]]));
    }

    #[test]
    fn what_a_full_socket_does_not_take_is_lost_with_all_behind_it() {
        let cuts = AtomicBool::new(true);
        let mut first = batch(&[9, 9, 5, 5, 5]);
        let (sent, _) = send(&mut first, &cuts, &[Ok(1), Err(libc::EAGAIN)]);
        let error = Some(libc::EAGAIN);
        let full = report(3, 2, 0);
        assert_eq!(sent, SendReport { error, ..full });
        assert_eq!(first.lost(), [3, 4]);

        // A long message may find no memory where a short one does.
        let mut second = batch(&[9, 9, 5, 5]);
        let answers = [Err(libc::ENOBUFS), Ok(2), Err(libc::ENOBUFS)];
        let (sent, offered) = send(&mut second, &cuts, &answers);
        let error = Some(libc::ENOBUFS);
        let full = report(2, 2, 0);
        assert_eq!(sent, SendReport { error, ..full });
        assert_eq!(offered, [vec![3, 1], vec![1, 1, 1, 1], vec![1, 1]]);
        assert_eq!(second.lost(), [2, 3]);
    }

    #[test]
    fn each_datagram_of_a_run_is_refused_by_itself() {
        let cuts = AtomicBool::new(true);
        let mut batch = batch(&[5, 5, 5]);
        let answers = [Err(libc::EPERM), Err(libc::EPERM), Ok(1), Err(libc::EPERM)];
        let (sent, _) = send(&mut batch, &cuts, &answers);
        let error = Some(libc::EPERM);
        let refused = report(1, 0, 2);
        assert_eq!(sent, SendReport { error, ..refused });
        assert_eq!(batch.lost(), [0, 2]);
        assert!(cuts.load(Ordering::Relaxed));
    }
}
