//! Frames from a gate: inner packets that came by CSTP, and datagrams of handshakes to send.
//!
//! A gate may be in an attacker's hands: it can speak for its own sessions only, and send datagrams
//! only where a client of such a session is.

use ocserv_sys::message_batch::{LinkState, MessageBatch};
use ocserv_sys::poller::Poller;

use std::os::fd::AsFd;
use std::sync::Arc;

use super::channel::Flow;
use super::clock;
use super::from_client::check_inner;
use super::session::Session;
use super::worker::{Delivery, Worker};
use crate::ipc::ids::{GateId, Slot};
use crate::ipc::packet::{Frame, HEADER_LEN};

impl Worker {
    /// Takes one batch from a gate's link.
    pub(super) fn read_gate(&mut self, gate: GateId, batch: &mut MessageBatch, poller: &Poller) {
        let Some(link) = self.out.links.get(&gate) else {
            return;
        };
        let state = batch.receive(link.as_fd());
        let now = clock();
        self.deliver.clear();
        for index in 0..batch.len() {
            match Frame::parse(batch.message(index)) {
                Some(Frame::Packet { slot, packet }) => {
                    let Some(session) = self.own_session(gate, slot) else {
                        continue;
                    };
                    session.data_by_cstp();
                    if let Some(len) = check_inner(&session, now, packet) {
                        self.deliver.push(Delivery {
                            index,
                            range: HEADER_LEN..HEADER_LEN + len,
                            slot: slot.0,
                        });
                    }
                }
                Some(Frame::Packets { slot, packets }) => {
                    let Some(session) = self.own_session(gate, slot) else {
                        continue;
                    };
                    session.data_by_cstp();
                    for (at, packet) in packets {
                        if let Some(len) = check_inner(&session, now, packet) {
                            self.deliver.push(Delivery {
                                index,
                                range: at..at + len,
                                slot: slot.0,
                            });
                        }
                    }
                }
                Some(Frame::Datagram {
                    slot,
                    peer,
                    local,
                    bytes,
                }) => {
                    let Some(session) = self.own_session(gate, slot) else {
                        continue;
                    };
                    let flow = Flow { peer, local };
                    if session.is_clients(&flow) {
                        self.out.datagram(&flow, bytes);
                    } else {
                        self.strays.foreign += 1;
                    }
                }
                None => self.strays.malformed += 1,
            }
        }
        let packets = self
            .deliver
            .iter()
            .filter_map(|d| batch.message(d.index).get(d.range.clone()));
        self.strays.tun += self.out.deliver(packets) as u64;
        self.flush_control(now);
        if !matches!(state, Ok(LinkState::Open)) {
            tracing::debug!(gate = gate.0, "a gate closed its packet link");
            self.remove_gate(gate, poller);
        }
    }

    fn own_session(&mut self, gate: GateId, slot: Slot) -> Option<Arc<Session>> {
        let session = self
            .table
            .by_slot(slot.0)
            .filter(|session| session.params.gate == gate);
        if session.is_none() {
            self.strays.foreign += 1;
        }
        session.cloned()
    }
}
