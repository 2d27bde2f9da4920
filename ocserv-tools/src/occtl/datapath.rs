//! `show datapath`: our own command, in the layout of `show status`.

use ocserv_proto::control::{DatapathDevice, DatapathInfo, PathTraffic, ProgramInfo};

use super::format::bytes;
use super::json::Object;
use super::text::Rows;

/// Text form. Sections without content are left out.
pub fn text(info: &DatapathInfo) -> String {
    let mut rows = Rows::new();
    rows.line("General info:").row("State", &info.state);
    rows.row("Reason", &info.reason)
        .row("Forward", &info.forward);
    rows.number("Max record", info.max_record.into());
    rows.row("Limit", &info.limit);
    rows.number("Sessions with DTLS", info.sessions);
    rows.number("Sessions in kernel", info.kernel_sessions);
    for (name, share) in shares(info) {
        if let Some(share) = share {
            rows.row(name, &format!("{share} %"));
        }
    }
    counts(&mut rows, "Record limits:", &info.limits);
    counts(&mut rows, "Costs in ns:", &info.costs);
    if !info.programs.is_empty() {
        rows.line("").line("Programs:");
    }
    for program in &info.programs {
        rows.row(&program.name, &format!("ID {}", program.id));
    }
    if !info.devices.is_empty() {
        rows.line("").line("Devices:");
    }
    for device in &info.devices {
        rows.row(&device.name, &format!("{}, {}", device.role, device.mode));
    }
    rows.line("").line("Kernel path:");
    traffic(&mut rows, &info.kernel);
    rows.number("Direct RX packets", info.direct_rx_packets);
    rows.number("Direct TX packets", info.direct_tx_packets);
    counts(&mut rows, "Left to user space:", &info.left);
    counts(&mut rows, "Kernel drops:", &info.kernel_drops);
    rows.line("").line("User path:");
    traffic(&mut rows, &info.user);
    if let Some(sockets) = &info.sockets {
        rows.number("Sockets", sockets.count);
        rows.number("Socket RX packets", sockets.rx_packets);
        rows.number("Socket TX packets", sockets.tx_packets);
    }
    counts(&mut rows, "User drops:", &info.user_drops);
    rows.finish()
}

/// Percentages of the packets that passed inside the kernel; `None`: there were none.
fn shares(info: &DatapathInfo) -> [(&'static str, Option<u64>); 2] {
    let (kernel, user) = (&info.kernel, &info.user);
    [
        ("Kernel share RX", kernel.rx_packets, user.rx_packets),
        ("Kernel share TX", kernel.tx_packets, user.tx_packets),
    ]
    .map(|(name, kernel, user)| {
        let all = kernel.saturating_add(user);
        (name, kernel.saturating_mul(100).checked_div(all))
    })
}

fn traffic(rows: &mut Rows, traffic: &PathTraffic) {
    rows.number("RX packets", traffic.rx_packets)
        .row("RX", &bytes(traffic.rx_bytes));
    rows.number("TX packets", traffic.tx_packets)
        .row("TX", &bytes(traffic.tx_bytes));
}

fn counts(rows: &mut Rows, title: &str, counts: &[(String, u64)]) {
    if !counts.is_empty() {
        rows.line("").line(title);
    }
    for (reason, count) in counts {
        rows.number(reason, *count);
    }
}

/// JSON form: one object without brackets.
pub fn json(info: &DatapathInfo) -> String {
    let mut object = Object::new();
    object
        .text("State", &info.state)
        .text("Reason", &info.reason)
        .text("Forward", &info.forward);
    object.number("Max record", info.max_record.into());
    object.text("Limit", &info.limit);
    object.number("Sessions with DTLS", info.sessions);
    object.number("Sessions in kernel", info.kernel_sessions);
    for (name, share) in shares(info) {
        object.number(name, share.unwrap_or(0));
    }
    object.object("Record limits", &by_reason(&info.limits));
    object.object("Costs in ns", &by_reason(&info.costs));
    object.objects("Programs", &programs(info));
    object.objects("Devices", &devices(info));
    let kernel = &info.kernel;
    object
        .number("Kernel RX packets", kernel.rx_packets)
        .text("Kernel RX", &bytes(kernel.rx_bytes))
        .number("raw_kernel_rx", kernel.rx_bytes)
        .number("Kernel TX packets", kernel.tx_packets)
        .text("Kernel TX", &bytes(kernel.tx_bytes))
        .number("raw_kernel_tx", kernel.tx_bytes);
    object.number("Direct RX packets", info.direct_rx_packets);
    object.number("Direct TX packets", info.direct_tx_packets);
    object.object("Left to user space", &by_reason(&info.left));
    object.object("Kernel drops", &by_reason(&info.kernel_drops));
    let user = &info.user;
    object
        .number("User RX packets", user.rx_packets)
        .text("User RX", &bytes(user.rx_bytes))
        .number("raw_user_rx", user.rx_bytes)
        .number("User TX packets", user.tx_packets)
        .text("User TX", &bytes(user.tx_bytes))
        .number("raw_user_tx", user.tx_bytes);
    let sockets = info.sockets.unwrap_or_default();
    object.number("Sockets", sockets.count);
    object.number("Socket RX packets", sockets.rx_packets);
    object.number("Socket TX packets", sockets.tx_packets);
    object.object("User drops", &by_reason(&info.user_drops));
    object.finish()
}

fn programs(info: &DatapathInfo) -> Vec<Object> {
    let one = |program: &ProgramInfo| {
        let mut object = Object::new();
        object
            .text("Name", &program.name)
            .number("ID", program.id.into());
        object
    };
    info.programs.iter().map(one).collect()
}

fn devices(info: &DatapathInfo) -> Vec<Object> {
    let one = |device: &DatapathDevice| {
        let mut object = Object::new();
        object
            .text("Name", &device.name)
            .text("Role", &device.role)
            .text("Mode", &device.mode);
        object
    };
    info.devices.iter().map(one).collect()
}

fn by_reason(counts: &[(String, u64)]) -> Object {
    let mut object = Object::new();
    for (reason, count) in counts {
        object.number(reason, *count);
    }
    object
}

#[cfg(test)]
mod tests {
    use ocserv_proto::control::SocketTraffic;

    use super::*;

    fn counts(list: &[(&str, u64)]) -> Vec<(String, u64)> {
        let owned = |(reason, count): &(&str, u64)| ((*reason).to_owned(), *count);
        list.iter().map(owned).collect()
    }

    fn device(name: &str, role: &str, mode: &str) -> DatapathDevice {
        DatapathDevice {
            name: name.to_owned(),
            role: role.to_owned(),
            mode: mode.to_owned(),
        }
    }

    fn program(name: &str, id: u32) -> ProgramInfo {
        ProgramInfo {
            name: name.to_owned(),
            id,
        }
    }

    fn on() -> DatapathInfo {
        DatapathInfo {
            state: "on".to_owned(),
            reason: String::new(),
            forward: "stack".to_owned(),
            max_record: 512,
            programs: vec![program("from_client", 41), program("to_client", 42)],
            devices: vec![
                device("eth0", "wan", "native"),
                device("vpns0", "tun", "tc"),
            ],
            sessions: 3,
            kernel_sessions: 2,
            kernel: PathTraffic {
                rx_packets: 1000,
                rx_bytes: 120_000,
                tx_packets: 2000,
                tx_bytes: 400_000,
            },
            user: PathTraffic {
                rx_packets: 7,
                rx_bytes: 592,
                tx_packets: 9,
                tx_bytes: 12_600,
            },
            direct_rx_packets: 1,
            direct_tx_packets: 2,
            left: counts(&[("long record", 5), ("other cipher", 2)]),
            kernel_drops: counts(&[("replay", 1)]),
            user_drops: counts(&[("source", 0), ("too big", 4)]),
            limit: "auto".to_owned(),
            limits: counts(&[("From clients", 512), ("To clients", 1530)]),
            costs: counts(&[("Kernel, 64 bytes", 860)]),
            sockets: None,
        }
    }

    fn off() -> DatapathInfo {
        DatapathInfo {
            state: "off".to_owned(),
            reason: "no kernel path".to_owned(),
            forward: "direct".to_owned(),
            limit: "none".to_owned(),
            ..DatapathInfo::default()
        }
    }

    #[test]
    fn text_of_a_path_that_is_on() {
        let expected = concat!(
            "General info:\n",
            "\tState: on\n",
            "\tForward: stack\n",
            "\tMax record: 512\n",
            "\tLimit: auto\n",
            "\tSessions with DTLS: 3\n",
            "\tSessions in kernel: 2\n",
            "\tKernel share RX: 99 %\n",
            "\tKernel share TX: 99 %\n",
            "\n",
            "Record limits:\n",
            "\tFrom clients: 512\n",
            "\tTo clients: 1530\n",
            "\n",
            "Costs in ns:\n",
            "\tKernel, 64 bytes: 860\n",
            "\n",
            "Programs:\n",
            "\tfrom_client: ID 41\n",
            "\tto_client: ID 42\n",
            "\n",
            "Devices:\n",
            "\teth0: wan, native\n",
            "\tvpns0: tun, tc\n",
            "\n",
            "Kernel path:\n",
            "\tRX packets: 1000\n",
            "\tRX: 120.0 KB\n",
            "\tTX packets: 2000\n",
            "\tTX: 400.0 KB\n",
            "\tDirect RX packets: 1\n",
            "\tDirect TX packets: 2\n",
            "\n",
            "Left to user space:\n",
            "\tlong record: 5\n",
            "\tother cipher: 2\n",
            "\n",
            "Kernel drops:\n",
            "\treplay: 1\n",
            "\n",
            "User path:\n",
            "\tRX packets: 7\n",
            "\tRX: 592 bytes\n",
            "\tTX packets: 9\n",
            "\tTX: 12.6 KB\n",
            "\n",
            "User drops:\n",
            "\tsource: 0\n",
            "\ttoo big: 4\n",
        );
        assert_eq!(text(&on()), expected);
    }

    #[test]
    fn text_of_a_path_that_is_off() {
        let expected = concat!(
            "General info:\n",
            "\tState: off\n",
            "\tReason: no kernel path\n",
            "\tForward: direct\n",
            "\tMax record: 0\n",
            "\tLimit: none\n",
            "\tSessions with DTLS: 0\n",
            "\tSessions in kernel: 0\n",
            "\n",
            "Kernel path:\n",
            "\tRX packets: 0\n",
            "\tRX: 0 bytes\n",
            "\tTX packets: 0\n",
            "\tTX: 0 bytes\n",
            "\tDirect RX packets: 0\n",
            "\tDirect TX packets: 0\n",
            "\n",
            "User path:\n",
            "\tRX packets: 0\n",
            "\tRX: 0 bytes\n",
            "\tTX packets: 0\n",
            "\tTX: 0 bytes\n",
        );
        assert_eq!(text(&off()), expected);
    }

    #[test]
    fn sockets_where_there_may_be_some() {
        let mut info = on();
        assert!(!text(&info).contains("Socket"));
        info.sockets = Some(SocketTraffic {
            count: 4,
            rx_packets: 30,
            tx_packets: 20,
        });
        let expected = concat!(
            "\tTX: 12.6 KB\n",
            "\tSockets: 4\n",
            "\tSocket RX packets: 30\n",
            "\tSocket TX packets: 20\n",
            "\n",
            "User drops:\n",
        );
        assert!(text(&info).contains(expected), "{}", text(&info));
        let parsed: serde_json::Value = serde_json::from_str(&json(&info)).unwrap();
        let number = |key: &str| parsed[key].as_u64().unwrap();
        let numbers = ["Sockets", "Socket RX packets", "Socket TX packets"].map(number);
        assert_eq!(numbers, [4, 30, 20]);
    }

    #[test]
    fn json_of_a_path_that_is_on() {
        let expected = concat!(
            "  {\n",
            "    \"State\":  \"on\",\n",
            "    \"Forward\":  \"stack\",\n",
            "    \"Max record\":  512,\n",
            "    \"Limit\":  \"auto\",\n",
            "    \"Sessions with DTLS\":  3,\n",
            "    \"Sessions in kernel\":  2,\n",
            "    \"Kernel share RX\":  99,\n",
            "    \"Kernel share TX\":  99,\n",
            "    \"Record limits\":\t{\"From clients\":  512, \"To clients\":  1530},\n",
            "    \"Costs in ns\":\t{\"Kernel, 64 bytes\":  860},\n",
            "    \"Programs\":\t[{\"Name\":  \"from_client\", \"ID\":  41}, ",
            "{\"Name\":  \"to_client\", \"ID\":  42}],\n",
            "    \"Devices\":\t[{\"Name\":  \"eth0\", \"Role\":  \"wan\", \"Mode\":  \"native\"}, ",
            "{\"Name\":  \"vpns0\", \"Role\":  \"tun\", \"Mode\":  \"tc\"}],\n",
            "    \"Kernel RX packets\":  1000,\n",
            "    \"Kernel RX\":  \"120.0 KB\",\n",
            "    \"raw_kernel_rx\":  120000,\n",
            "    \"Kernel TX packets\":  2000,\n",
            "    \"Kernel TX\":  \"400.0 KB\",\n",
            "    \"raw_kernel_tx\":  400000,\n",
            "    \"Direct RX packets\":  1,\n",
            "    \"Direct TX packets\":  2,\n",
            "    \"Left to user space\":\t{\"long record\":  5, \"other cipher\":  2},\n",
            "    \"Kernel drops\":\t{\"replay\":  1},\n",
            "    \"User RX packets\":  7,\n",
            "    \"User RX\":  \"592 bytes\",\n",
            "    \"raw_user_rx\":  592,\n",
            "    \"User TX packets\":  9,\n",
            "    \"User TX\":  \"12.6 KB\",\n",
            "    \"raw_user_tx\":  12600,\n",
            "    \"Sockets\":  0,\n",
            "    \"Socket RX packets\":  0,\n",
            "    \"Socket TX packets\":  0,\n",
            "    \"User drops\":\t{\"source\":  0, \"too big\":  4}\n",
            "  }\n",
        );
        assert_eq!(json(&on()), expected);
        let parsed: serde_json::Value = serde_json::from_str(&json(&on())).unwrap();
        assert_eq!(parsed["Devices"][1]["Role"], "tun");
        assert_eq!(parsed["User drops"]["too big"], 4);
    }

    #[test]
    fn json_of_a_path_that_is_off_has_the_same_keys_and_a_reason() {
        let keys = |info: &DatapathInfo| -> Vec<String> {
            let parsed: serde_json::Value = serde_json::from_str(&json(info)).unwrap();
            parsed.as_object().unwrap().keys().cloned().collect()
        };
        let mut expected = keys(&on());
        expected.push("Reason".to_owned());
        expected.sort();
        let mut found = keys(&off());
        found.sort();
        assert_eq!(found, expected);
        let empty = concat!(
            "    \"Reason\":  \"no kernel path\",\n",
            "    \"Forward\":  \"direct\",\n"
        );
        assert!(json(&off()).contains(empty));
        assert!(json(&off()).contains("    \"Programs\":\t[],\n    \"Devices\":\t[],\n"));
        assert!(json(&off()).ends_with("    \"User drops\":\t{}\n  }\n"));
    }
}
