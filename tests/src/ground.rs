// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a process with `CAP_NET_ADMIN` in a pod's network namespace can do to the pod's own end, as data.
//!
//! Each operation is a script for `bash -e` in the pod's namespace that does the deed and then sends datagrams to the far
//! side as best it can. [`Scene::script`] gives it its words. A level that has other kernels runs the same list there.

use std::fmt;

/// What the host end is after an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostEnd {
    /// It stands, and the filters must, too.
    Stands,
    /// The deed takes both ends of the veth away.
    Gone,
}

/// One operation.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// Its name, for messages.
    pub name: &'static str,
    /// What is done.
    pub script: &'static str,
    /// Whether its datagrams reach the far side where podgate is not. Where they do not, the deed itself keeps them.
    pub carries: bool,
    /// What becomes of the host end.
    pub host_end: HostEnd,
    /// What a kernel needs beyond veth, nftables and tc: names of devices, as `ip link add type` has them.
    pub needs: &'static [&'static str],
}

const fn operation(name: &'static str, script: &'static str) -> Operation {
    Operation {
        name,
        script,
        carries: true,
        host_end: HostEnd::Stands,
        needs: &[],
    }
}

const fn silent(name: &'static str, script: &'static str) -> Operation {
    Operation {
        carries: false,
        ..operation(name, script)
    }
}

const fn with(needs: &'static [&'static str], operation: Operation) -> Operation {
    Operation { needs, ..operation }
}

const fn gone(name: &'static str, script: &'static str) -> Operation {
    Operation {
        host_end: HostEnd::Gone,
        ..silent(name, script)
    }
}

/// Words of every script: `dress DEVICE` gives a device the pod's address and routes, `say` sends.
const WORDS: &str = r#"
dress() {
	ip link set "$1" up
	ip -4 addr flush dev "$1"
	ip addr replace "$A/32" dev "$1"
	ip route replace "$G" dev "$1"
	ip route replace default via "$G" dev "$1"
	ip neigh replace "$G" lladdr "$M" dev "$1" nud permanent
	# Until its carrier is known, a device has a queue that drops.
	for _ in $(seq 40); do
		ip link show dev "$1" | grep -qE 'state (UP|UNKNOWN)' && return
		sleep 0.05
	done
}
say() { for _ in 1 2 3; do echo podgate >"/dev/udp/$F/$P" || true; done 2>/dev/null; }
at_egress() {
	nft add table netdev t
	nft add chain netdev t c "{ type filter hook egress device \"$1\" priority 0; }"
	nft add rule netdev t c "${@:2}"
}
pair() {
	ip link add v0 address "$(cat /sys/class/net/eth0/address 2>/dev/null || echo 02:00:00:00:00:07)" type veth peer name v1
	ip link set v1 up
}
in_child() {
	unshare "$@" sleep 20 >/dev/null 2>&1 </dev/null &
	child=$!
	until [ "$(readlink /proc/$child/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
	ip link set eth0 netns $child
	enter="nsenter --target $child --net"
}
dress eth0
"#;

/// Every operation.
pub const OPERATIONS: &[Operation] = &[
    operation("nothing", "say"),
    operation(
        "rename",
        "ip link set eth0 down; ip link set eth0 name eth9; dress eth9; say",
    ),
    operation(
        "alias_and_group",
        "ip link set eth0 alias podgate; ip link set eth0 group 1885798401; say",
    ),
    operation(
        "altname",
        "ip link property add dev eth0 altname other; say",
    ),
    operation("down_and_up", "ip link set eth0 down; dress eth0; say"),
    silent("down", "ip link set eth0 down; say"),
    operation(
        "into_a_child_namespace",
        "in_child -n; export -f dress say; $enter bash -ec 'ip link set lo up; dress eth0; say'",
    ),
    operation(
        "into_a_user_namespace",
        "in_child -Urn; export -f dress say; \
         nsenter --target $child --net --user --preserve-credentials bash -ec 'ip link set lo up; dress eth0; say'",
    ),
    operation(
        "into_a_child_under_another_number",
        "in_child -n; ip link add name tmp type veth peer name tmp2 || true; export -f dress say; \
         $enter bash -ec 'dress eth0; ip link set eth0 down; ip link set eth0 name x; dress x; say'",
    ),
    gone("deleted", "ip link del eth0; say"),
    gone(
        "deleted_and_made_anew",
        "mac=$(ip -o link show eth0 | sed \"s/.*ether \\([^ ]*\\).*/\\1/\"); \
         number=$(ip -o link show eth0 | cut -d: -f1); ip link del eth0; \
         ip link add eth0 index $number address $mac type veth peer name far; ip link set far up; dress eth0; say",
    ),
    operation(
        "second_veth_bridged",
        "pair; ip link add br0 type bridge; ip link set br0 up; ip addr flush dev eth0; \
         ip link set eth0 master br0; ip link set v1 master br0; ip link set v0 up; dress v0; say",
    ),
    with(
        &["bridge"],
        operation(
            "bridge_on_top",
            "ip link add br0 type bridge; ip link set eth0 master br0; ip addr flush dev eth0; dress br0; say",
        ),
    ),
    with(
        &["macvlan"],
        operation(
            "macvlan_on_top",
            "ip link add mac0 link eth0 type macvlan mode bridge; ip addr flush dev eth0; dress mac0; say",
        ),
    ),
    with(
        &["macvlan"],
        operation(
            "macvlan_passthru",
            "ip link add mac0 link eth0 type macvlan mode passthru; ip addr flush dev eth0; dress mac0; say",
        ),
    ),
    with(
        &["vxlan"],
        operation(
            "vxlan_on_top",
            "ip link add x type vxlan id 7 remote $F dstport $P dev eth0; ip addr add 172.31.0.1/24 dev x; \
             ip link set x up; echo inner >/dev/udp/172.31.0.2/9; sleep 0.1",
        ),
    ),
    with(
        &["ifb"],
        operation(
            "fwd_to_ifb",
            "ip link add i type ifb; ip link set i up; at_egress eth0 fwd to '\"i\"'; say",
        ),
    ),
    with(
        &["ifb"],
        operation(
            "fwd_to_ifb_with_the_guards_number",
            "ip link add i type ifb; ip link set i up; nft add table inet p; \
             nft add chain inet p c '{ type route hook output priority 0; }'; \
             nft add rule inet p c meta priority set 706f:6400; \
             at_egress eth0 meta priority set 706f:6400 fwd to '\"i\"'; say",
        ),
    ),
    with(
        &["ifb"],
        operation(
            "dup_to_ifb",
            "ip link add i type ifb; ip link set i up; at_egress eth0 dup to '\"i\"'; say",
        ),
    ),
    with(
        &["ifb"],
        operation(
            "ifb_below_a_bridge",
            "ip link add i type ifb; ip link set i up; ip link add br0 type bridge; ip link set eth0 master br0; \
             ip addr flush dev eth0; at_egress eth0 fwd to '\"i\"'; dress br0; say",
        ),
    ),
    with(
        &["ifb", "macvlan"],
        operation(
            "ifb_below_a_macvlan",
            "ip link add i type ifb; ip link set i up; at_egress eth0 fwd to '\"i\"'; \
             ip link add mac0 link eth0 type macvlan mode bridge; ip addr flush dev eth0; dress mac0; say",
        ),
    ),
    with(
        &["ifb"],
        operation(
            "mirred_to_ifb",
            "ip link add i type ifb; ip link set i up; tc qdisc add dev eth0 clsact; \
             tc filter add dev eth0 egress protocol all u32 match u32 0 0 action mirred egress redirect dev i; say",
        ),
    ),
    operation(
        "fwd_from_another_veth",
        "pair; nft add table netdev t; \
         nft add chain netdev t c '{ type filter hook ingress device \"v1\" priority 0; }'; \
         nft add rule netdev t c fwd to '\"eth0\"'; ip addr flush dev eth0; dress v0; say",
    ),
    operation(
        "mirred_from_another_veth",
        "pair; tc qdisc add dev v1 clsact; \
         tc filter add dev v1 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev eth0; \
         ip addr flush dev eth0; dress v0; say",
    ),
    operation(
        "ports_rewritten",
        "at_egress eth0 udp dport 9 udp dport set $P; echo x >/dev/udp/$F/9",
    ),
    operation(
        "source_rewritten",
        "at_egress eth0 ip saddr $A ip saddr set 10.96.0.250; say",
    ),
    operation(
        "translated",
        "nft add table ip n; nft add chain ip n c '{ type nat hook postrouting priority 100; }'; \
         nft add rule ip n c snat to 10.96.0.251; say",
    ),
    operation(
        "a_queueing_discipline",
        "tc qdisc add dev eth0 root tbf rate 10mbit burst 32k latency 50ms; say",
    ),
    operation("no_queue", "ip link set eth0 txqueuelen 0; say"),
    operation("more_queues", "ethtool -L eth0 rx 1 tx 1 || true; say"),
    operation("no_checksum_offload", "ethtool -K eth0 tx off rx off; say"),
    operation("no_segmentation", "ethtool -K eth0 tso off gso off; say"),
    operation("gro", "ethtool -K eth0 gro on; say"),
    operation("small_mtu", "ip link set eth0 mtu 576; say"),
    operation("large_mtu", "ip link set eth0 mtu 65535; say"),
    operation(
        "promiscuous",
        "ip link set eth0 promisc on allmulticast on; say",
    ),
    silent("no_arp", "ip link set eth0 arp off; say"),
    operation(
        "another_hardware_address",
        "ip link set eth0 address 02:00:00:00:00:99; dress eth0; say",
    ),
    operation(
        "an_address_more",
        "ip addr add 10.96.0.252/32 dev eth0; ip route replace default via $G dev eth0 src 10.96.0.252; say",
    ),
    operation(
        "another_address",
        "ip addr flush dev eth0; ip addr add 10.96.0.253/32 dev eth0; ip route replace $G dev eth0; \
         ip route replace default via $G dev eth0; ip neigh replace $G lladdr $M dev eth0 nud permanent; say",
    ),
    operation(
        "policy_routing",
        "ip route flush default; ip route add $F via $G dev eth0 table 7 onlink; ip rule add pref 1 lookup 7; say",
    ),
    operation(
        "steered_queues",
        "unshare --mount bash -ec 'mount -t sysfs s /sys; echo 1 >/sys/class/net/eth0/queues/rx-0/rps_cpus; \
         echo 1 >/sys/class/net/eth0/queues/tx-0/xps_cpus || true'; say",
    ),
    operation("xdp_drop", "ip link set eth0 xdp obj $XDP sec drop; say"),
    operation("xdp_tx", "ip link set eth0 xdp obj $XDP sec tx; say"),
    operation(
        "xdp_redirect",
        "ip link set eth0 xdp obj $XDP sec redirect; say",
    ),
    operation(
        "generic_xdp",
        "ip link set eth0 xdpgeneric obj $XDP sec tx; say",
    ),
    operation(
        "bpf_at_egress",
        "tc qdisc add dev eth0 clsact; tc filter add dev eth0 egress bpf da obj $XDP sec pass; say",
    ),
];

/// Where an operation is done.
#[derive(Debug, Clone)]
pub struct Scene<'a> {
    /// The pod's IPv4 address.
    pub address: &'a str,
    /// Its gateway's.
    pub gateway: &'a str,
    /// The gateway's hardware address.
    pub gateway_mac: [u8; 6],
    /// The far side's address.
    pub far: &'a str,
    /// The port on which the far side counts.
    pub port: u16,
    /// Path of [`xdp_object`].
    pub object: &'a str,
}

impl Scene<'_> {
    /// The whole script of an operation, for `bash -e`.
    #[must_use]
    pub fn script(&self, operation: &Operation) -> String {
        let [a, b, c, d, e, f] = self.gateway_mac;
        let Self {
            address,
            gateway,
            gateway_mac: _,
            far,
            port,
            object,
        } = self;
        format!(
            "export A={address} G={gateway} F={far} P={port} XDP={object} \
             M={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}\n{WORDS}\n{}\n",
            operation.script
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// An ELF object with a program in each of the sections `drop`, `tx`, `pass` and `redirect` (to interface 1).
#[must_use]
pub fn xdp_object() -> Vec<u8> {
    const MOV: u8 = 0xb7;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const REDIRECT: i32 = 23;
    let instruction = |code: u8, register: u8, value: i32| {
        let mut bytes = vec![code, register, 0, 0];
        bytes.extend(value.to_le_bytes());
        bytes
    };
    let returns = |value| [instruction(MOV, 0, value), instruction(EXIT, 0, 0)].concat();
    let redirects = [
        instruction(MOV, 1, 1),
        instruction(MOV, 2, 0),
        instruction(CALL, 0, REDIRECT),
        instruction(EXIT, 0, 0),
    ]
    .concat();
    let programs = [
        ("drop", returns(1)),
        ("tx", returns(3)),
        ("pass", returns(-1)),
        ("redirect", redirects),
    ];
    elf(&programs)
}

/// A relocatable ELF file for eBPF: these sections of code, a license, and a symbol for each program.
fn elf(programs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    const PROGBITS: u32 = 1;
    const SYMBOLS: u32 = 2;
    const STRINGS: u32 = 3;
    const EXECUTABLE: u64 = 6;
    const HEADER: usize = 64;
    let names: Vec<&str> = programs.iter().map(|(name, _)| *name).collect();
    let mut strings = vec![0];
    let mut symbols = vec![0; 24];
    let mut sections: Vec<(&str, u32, u64, Vec<u8>)> = Vec::new();
    for (index, (name, code)) in programs.iter().enumerate() {
        let at = u32::try_from(strings.len()).unwrap_or_default();
        strings.extend(name.bytes().chain([0]));
        // A global function at the beginning of its section.
        symbols.extend(at.to_le_bytes());
        symbols.extend([0x12, 0]);
        symbols.extend(u16::try_from(index + 1).unwrap_or_default().to_le_bytes());
        symbols.extend(0_u64.to_le_bytes());
        symbols.extend((code.len() as u64).to_le_bytes());
        sections.push((name, PROGBITS, EXECUTABLE, code.clone()));
    }
    sections.push(("license", PROGBITS, 3, b"GPL\0".to_vec()));
    let symbol_table = sections.len() + 1;
    sections.push((".symtab", SYMBOLS, 0, symbols));
    for name in names.iter().chain(&["license", ".symtab", ".strtab"]) {
        strings.extend(name.bytes().chain([0]));
    }
    sections.push((".strtab", STRINGS, 0, strings.clone()));
    let name_at = |name: &str| {
        let wanted = [&[0], name.as_bytes(), &[0]].concat();
        let found = strings.windows(wanted.len()).position(|it| it == wanted);
        u32::try_from(found.map_or(0, |at| at + 1)).unwrap_or_default()
    };
    let (mut body, mut headers) = (Vec::new(), vec![0; 64]);
    for (name, kind, flags, bytes) in &sections {
        body.resize(body.len().next_multiple_of(8), 0);
        let is_symbols = *kind == SYMBOLS;
        headers.extend(name_at(name).to_le_bytes());
        headers.extend(kind.to_le_bytes());
        for word in [*flags, 0, (HEADER + body.len()) as u64, bytes.len() as u64] {
            headers.extend(word.to_le_bytes());
        }
        let link = if is_symbols { symbol_table + 1 } else { 0 };
        headers.extend(u32::try_from(link).unwrap_or_default().to_le_bytes());
        headers.extend(u32::from(is_symbols).to_le_bytes());
        headers.extend(8_u64.to_le_bytes());
        headers.extend(if is_symbols { 24_u64 } else { 0 }.to_le_bytes());
        body.extend(bytes);
    }
    body.resize(body.len().next_multiple_of(8), 0);
    let count = u16::try_from(sections.len() + 1).unwrap_or_default();
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    file.resize(16, 0);
    // Relocatable, for eBPF.
    file.extend(1_u16.to_le_bytes());
    file.extend(247_u16.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for word in [0, 0, (HEADER + body.len()) as u64] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64, 0, 0, 64, count, count - 1] {
        file.extend(u16::to_le_bytes(half));
    }
    [file, body, headers].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_has_thirty_operations_of_different_names() {
        let names: BTreeSet<&str> = OPERATIONS.iter().map(|it| it.name).collect();
        assert_eq!(names.len(), OPERATIONS.len());
        assert!(names.len() >= 30);
        let carry = OPERATIONS.iter().filter(|it| it.carries).count();
        assert!(carry >= 30, "{carry}");
    }
}
