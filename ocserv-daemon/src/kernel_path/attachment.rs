//! Programs on devices.

use anyhow::{Context, ensure};
use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::xdp::XdpMode;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp};
use ocserv_sys::gro::Merging;

use super::{KernelPath, missing};

/// What a device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceRole {
    /// Towards clients.
    Wan,
    /// Towards the networks behind the gateway (`xdp-forward = direct`).
    Lan,
    /// The tun device.
    Tun,
}

/// Where in the kernel a device's packets meet the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// XDP in the driver.
    Native,
    /// XDP in the stack.
    Generic,
    /// TC.
    Tc,
}

/// A device with programs on it. They are detached when this is dropped.
#[derive(Debug)]
pub struct Attached {
    /// Its number.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: DeviceRole,
    /// How.
    pub mode: Mode,
    /// Held for their end.
    _links: Vec<FdLink>,
    /// Likewise.
    merging: Option<Merging>,
}

impl Mode {
    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tc => "tc",
        }
    }
}

impl DeviceRole {
    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Wan => "wan",
            Self::Lan => "lan",
            Self::Tun => "tun",
        }
    }
}

impl KernelPath {
    /// Remembers that a device takes no programs.
    pub fn refuse(&mut self, ifindex: u32) {
        self.refused.insert(ifindex);
    }

    /// Devices that are gone, or off, may be tried again when they are back.
    pub fn forgive(&mut self, is_there: impl Fn(u32) -> bool) {
        self.refused.retain(|ifindex| is_there(*ifindex));
    }

    /// Whether [`Self::refuse`] was said of a device.
    pub fn was_refused(&self, ifindex: u32) -> bool {
        self.refused.contains(&ifindex)
    }

    /// Devices that have programs.
    pub fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// Whether a device has the programs for a role.
    pub fn has_programs(&self, ifindex: u32, role: DeviceRole) -> bool {
        let has = |device: &Attached| (device.ifindex, device.role) == (ifindex, role);
        self.attached.iter().any(has)
    }

    /// Puts the programs for a role on a device, in the first of `modes` that the device has.
    ///
    /// # Errors
    /// What the last mode failed with.
    pub fn attach(
        &mut self,
        (ifindex, name): (u32, &str),
        role: DeviceRole,
        modes: &[Mode],
    ) -> anyhow::Result<Mode> {
        self.detach(ifindex);
        let (links, mode) = match role {
            DeviceRole::Tun => {
                let link = self.attach_tc("tc_tx", name, TcAttachType::Egress)?;
                (vec![link], Mode::Tc)
            }
            DeviceRole::Wan | DeviceRole::Lan => self.attach_first((ifindex, name), role, modes)?,
        };
        if self.options.direct && role != DeviceRole::Tun {
            self.allow_direct(ifindex)?;
        }
        self.attached.push(Attached {
            ifindex,
            name: name.to_owned(),
            role,
            mode,
            _links: links,
            merging: None,
        });
        Ok(mode)
    }

    /// Has a device that has programs merge what it receives, as long as it has them.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn merge(&mut self, ifindex: u32) -> std::io::Result<()> {
        let mut attached = self.attached.iter_mut();
        if let Some(device) = attached.find(|device| device.ifindex == ifindex) {
            device.merging = Merging::start(&device.name)?;
        }
        Ok(())
    }

    /// Takes the programs off a device, if there are any, and its sockets.
    pub fn detach(&mut self, ifindex: u32) {
        self.attached.retain(|device| device.ifindex != ifindex);
        self.direct.forget(ifindex);
        self.forget_sockets(ifindex);
    }

    fn attach_first(
        &mut self,
        device: (u32, &str),
        role: DeviceRole,
        modes: &[Mode],
    ) -> anyhow::Result<(Vec<FdLink>, Mode)> {
        let mut failure = anyhow::anyhow!("no mode is left to try");
        for mode in modes {
            match self.attach_in(device, role, *mode) {
                Ok(links) => return Ok((links, *mode)),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Links are dropped in order: what makes frames of records goes before what takes such frames.
    fn attach_in(
        &mut self,
        (ifindex, name): (u32, &str),
        role: DeviceRole,
        mode: Mode,
    ) -> anyhow::Result<Vec<FdLink>> {
        let flags = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
            Mode::Tc => {
                ensure!(role == DeviceRole::Wan, "TC is for devices towards clients");
                return Ok(vec![self.attach_tc(
                    "tc_rx",
                    name,
                    TcAttachType::Ingress,
                )?]);
            }
        };
        if role == DeviceRole::Lan {
            return Ok(vec![self.attach_xdp("xdp_tx", ifindex, flags)?]);
        }
        let deliver = self.attach_tc("tc_deliver", name, TcAttachType::Ingress)?;
        Ok(vec![self.attach_xdp("xdp_rx", ifindex, flags)?, deliver])
    }

    fn attach_xdp(
        &mut self,
        program: &str,
        ifindex: u32,
        flags: XdpMode,
    ) -> anyhow::Result<FdLink> {
        let program = self.ebpf.program_mut(program);
        let program: &mut Xdp = program.ok_or_else(|| missing("program"))?.try_into()?;
        let id = program.attach_to_if_index(ifindex, flags)?;
        // What is not a link would outlive a crash, so it is given up.
        Ok(FdLink::try_from(program.take_link(id)?)?)
    }

    fn attach_tc(
        &mut self,
        program: &str,
        device: &str,
        direction: TcAttachType,
    ) -> anyhow::Result<FdLink> {
        let found = self.ebpf.program_mut(program);
        let found: &mut SchedClassifier = found.ok_or_else(|| missing(program))?.try_into()?;
        let order = match direction {
            // Another's program there may end the chain, and what was an inner packet would go on as
            // received by that device.
            TcAttachType::Ingress => LinkOrder::first(),
            _ => LinkOrder::default(),
        };
        let options = TcAttachOptions::TcxOrder(order);
        let id = found
            .attach_with_options(device, direction, options)
            .with_context(|| format!("{program} on {device}"))?;
        let link = found.take_link(id)?;
        Ok(FdLink::try_from(link)?)
    }
}
