// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guard behind the filters: from a host end, nothing goes on that `from_pod` did not pass.
//!
//! tc at the host end can be walked past: whoever has `CAP_NET_ADMIN` in the pod leads packets through an `ifb` device,
//! which marks them to skip the next tc, and the crossing of the veth keeps that bit. But the crossing zeroes
//! `skb->priority`, whatever the pod wrote there. So `from_pod` writes a number there when it passes a packet, and a table of
//! nftables, where every packet must come by that a host end receives, drops what has another:
//!
//! ```text
//! veth: priority = 0 ─► tc: from_pod, priority = PASSED ─► prerouting | arp input | bridge prerouting
//!                                                            priority == PASSED? accept; from a host end? drop
//! ```
//! Nothing takes the number away again, which would cost as much as the rest of it: routing IPv4 and the next veth
//! overwrite it, and queueing disciplines sort by its lowest bits, which are 0.
//! It stands when the filters do not: while they are missing, nothing of the pod goes anywhere. Which packets it looks at
//! is told by the device group ([`crate::mark`]), which dies with the device.
//!
//! What a bridge may hand to its other ports only has a number of its own, which ends where a bridge hands frames to the
//! node: the programs do not see to whom a frame goes in the end, and the bridge does.

use podgate_abi::{ON_LINK_PRIORITY, PASSED_PRIORITY};

use crate::{
    mark::{GROUP, GROUP_MASK},
    nft::{self, Attributes, NftError, Socket, kind},
};

/// The name of the tables.
const TABLE: &str = "podgate";
/// Before everything else that looks at packets there: defragmentation is at -400.
const PRIORITY: i32 = -500;

/// Where packets of a host end come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6 that is routed or for the node itself.
    Inet,
    /// ARP that the node itself hears.
    Arp,
    /// Everything that a port of a bridge receives.
    Bridge,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Inet, Self::Arp, Self::Bridge];

    /// Its name, as `nft` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Arp => "arp",
            Self::Bridge => "bridge",
        }
    }

    /// `NFPROTO_*` of `linux/netfilter.h`.
    const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Arp => 3,
            Self::Bridge => 7,
        }
    }
}

/// Attributes and keys of `linux/netfilter/nf_tables.h`.
mod attribute {
    pub(super) const TABLE_NAME: u16 = 1;
    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const RULE_TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const ELEMENT: u16 = 1;
    pub(super) const EXPRESSION_NAME: u16 = 1;
    pub(super) const EXPRESSION_DATA: u16 = 2;
    pub(super) const VALUE: u16 = 1;
    pub(super) const VERDICT: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
    pub(super) const COUNTER_PACKETS: u16 = 2;
    pub(super) const GENERATION: u16 = 1;
}
use attribute as a;

const META_PRIORITY: u32 = 2;
const META_INPUT_GROUP: u32 = 21;
const VERDICT_REGISTER: u32 = 0;
const REGISTER: u32 = 1;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// A chain of a family's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chain {
    /// What a host end received.
    Received,
    /// What a bridge hands to the node.
    Delivered,
}

impl Chain {
    const fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Delivered => "delivered",
        }
    }

    /// `NF_INET_PRE_ROUTING`, `NF_ARP_IN` and `NF_BR_PRE_ROUTING`; `NF_BR_LOCAL_IN`.
    const fn hook(self) -> u32 {
        match self {
            Self::Received => 0,
            Self::Delivered => 1,
        }
    }
}

fn value(word: u32) -> Attributes {
    Attributes::default().bytes(a::VALUE, &word.to_ne_bytes())
}

fn expression(name: &str, data: &Attributes) -> Attributes {
    Attributes::default()
        .text(a::EXPRESSION_NAME, name)
        .nested(a::EXPRESSION_DATA, data)
}

/// Loads a fact about the packet into the register.
fn load(key: u32) -> Attributes {
    let data = Attributes::default().number(1, REGISTER).number(2, key);
    expression("meta", &data)
}

/// Keeps these bits of the register.
fn mask(bits: u32) -> Attributes {
    let data = Attributes::default()
        .number(1, REGISTER)
        .number(2, REGISTER)
        .number(3, 4)
        .nested(4, &value(bits))
        .nested(5, &value(0));
    expression("bitwise", &data)
}

/// Goes on with the rule only if the register is this.
fn equals(word: u32) -> Attributes {
    let data = Attributes::default()
        .number(1, REGISTER)
        .number(2, 0)
        .nested(3, &value(word));
    expression("cmp", &data)
}

fn verdict(code: u32) -> Attributes {
    let inner = Attributes::default().number(a::VERDICT_CODE, code);
    let outer = Attributes::default().nested(a::VERDICT, &inner);
    let data = Attributes::default()
        .number(1, VERDICT_REGISTER)
        .nested(2, &outer);
    expression("immediate", &data)
}

fn count() -> Attributes {
    expression("counter", &Attributes::default())
}

/// A rule, as its expressions.
type Expressions = Vec<Attributes>;

/// What has this number goes on.
fn accept_priority(number: u32) -> Expressions {
    vec![load(META_PRIORITY), equals(number), verdict(ACCEPT)]
}

/// What a host end received ends here.
fn drop_received() -> Expressions {
    vec![
        load(META_INPUT_GROUP),
        mask(GROUP_MASK),
        equals(GROUP),
        count(),
        verdict(DROP),
    ]
}

/// What has this number ends here.
fn drop_priority(number: u32) -> Expressions {
    vec![load(META_PRIORITY), equals(number), count(), verdict(DROP)]
}

impl Family {
    /// Its chains with their rules, in order. What was passed goes first: it is most.
    fn chains(self) -> Vec<(Chain, Vec<Expressions>)> {
        match self {
            Self::Inet | Self::Arp => vec![(
                Chain::Received,
                vec![accept_priority(PASSED_PRIORITY), drop_received()],
            )],
            Self::Bridge => vec![
                (
                    Chain::Received,
                    vec![
                        accept_priority(PASSED_PRIORITY),
                        accept_priority(ON_LINK_PRIORITY),
                        drop_received(),
                    ],
                ),
                (Chain::Delivered, vec![drop_priority(ON_LINK_PRIORITY)]),
            ],
        }
    }
}

/// What makes a family's table, whatever was there of it.
fn steps(family: Family) -> Vec<(u8, Attributes)> {
    let table = || Attributes::default().text(a::TABLE_NAME, TABLE);
    let mut steps = vec![
        // One that is not there cannot be deleted.
        (kind::NEW_TABLE, table()),
        (kind::DELETE_TABLE, table()),
        (kind::NEW_TABLE, table()),
    ];
    for (chain, rules) in family.chains() {
        let hook = Attributes::default()
            .number(a::HOOK_NUMBER, chain.hook())
            .number(a::HOOK_PRIORITY, PRIORITY.cast_unsigned());
        let attributes = Attributes::default()
            .text(a::CHAIN_TABLE, TABLE)
            .text(a::CHAIN_NAME, chain.name())
            .nested(a::CHAIN_HOOK, &hook)
            .number(a::CHAIN_POLICY, ACCEPT)
            .text(a::CHAIN_TYPE, "filter");
        steps.push((kind::NEW_CHAIN, attributes));
        for expressions in rules {
            let list = expressions
                .iter()
                .fold(Attributes::default(), |list, expression| {
                    list.nested(a::ELEMENT, expression)
                });
            let rule = Attributes::default()
                .text(a::RULE_TABLE, TABLE)
                .text(a::RULE_CHAIN, chain.name())
                .nested(a::RULE_EXPRESSIONS, &list);
            steps.push((kind::NEW_RULE, rule));
        }
    }
    steps
}

/// Takes a family's table away, if the kernel has it.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn remove(family: Family) -> Result<(), NftError> {
    let table = || Attributes::default().text(a::TABLE_NAME, TABLE);
    // One that is not there cannot be deleted.
    let steps = [(kind::NEW_TABLE, table()), (kind::DELETE_TABLE, table())];
    match Socket::open().and_then(|socket| socket.batch(family.number(), &steps)) {
        Err(error) if error.is_unsupported() => Ok(()),
        removed => removed,
    }
}

/// Puts a family's table there, in one step, in place of what was there of it.
fn put(family: Family) -> Result<(), NftError> {
    Socket::open()?.batch(family.number(), &steps(family))
}

/// Whether all chains of a family are at their hooks.
fn is_hooked(socket: &mut Socket, family: Family) -> Result<bool, NftError> {
    for (chain, _) in family.chains() {
        let question = Attributes::default()
            .text(a::CHAIN_TABLE, TABLE)
            .text(a::CHAIN_NAME, chain.name());
        let found = match socket.ask(kind::GET_CHAIN, false, family.number(), &question) {
            Err(error) if error.is_missing() => return Ok(false),
            found => found?,
        };
        let is_at_its_hook = |found: &Vec<u8>| {
            let hook = nft::find(found, a::CHAIN_HOOK)?;
            let number = nft::find(&hook, a::HOOK_NUMBER)?;
            let priority = nft::find(&hook, a::HOOK_PRIORITY)?;
            (number == chain.hook().to_be_bytes() && priority == PRIORITY.to_be_bytes())
                .then_some(())
        };
        if !found.iter().any(|found| is_at_its_hook(found).is_some()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A rule as the kernel tells of it: what its expressions say, and what it counted.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    chain: String,
    expressions: Vec<Said>,
    packets: u64,
}

/// The name of an expression, and what tells it from others of the name: the fact that it loads, the number that it compares
/// with or masks by, its verdict.
type Said = (String, Vec<u8>);

fn said(expression: &[u8]) -> Option<Said> {
    let name = nft::text(&nft::find(expression, a::EXPRESSION_NAME)?);
    let data = nft::find(expression, a::EXPRESSION_DATA).unwrap_or_default();
    let number = match name.as_str() {
        "meta" => nft::find(&data, 2)?,
        "cmp" => nft::find(&nft::find(&data, 3)?, a::VALUE)?,
        "bitwise" => nft::find(&nft::find(&data, 4)?, a::VALUE)?,
        "immediate" => {
            let value = nft::find(&data, 2)?;
            nft::find(&nft::find(&value, a::VERDICT)?, a::VERDICT_CODE)?
        }
        _ => Vec::new(),
    };
    Some((name, number))
}

fn read_rule(rule: &[u8]) -> Option<Rule> {
    let mut read = Rule {
        chain: nft::text(&nft::find(rule, a::RULE_CHAIN)?),
        expressions: Vec::new(),
        packets: 0,
    };
    for expression in nft::all(&nft::find(rule, a::RULE_EXPRESSIONS)?) {
        let said = said(&expression)?;
        if said.0 == "counter" {
            let data = nft::find(&expression, a::EXPRESSION_DATA)?;
            let packets = nft::find(&data, a::COUNTER_PACKETS)?;
            read.packets = u64::from_be_bytes(packets.try_into().ok()?);
        }
        read.expressions.push(said);
    }
    Some(read)
}

fn read_rules(socket: &mut Socket, family: Family) -> Result<Vec<Rule>, NftError> {
    let question = Attributes::default().text(a::RULE_TABLE, TABLE);
    match socket.ask(kind::GET_RULE, true, family.number(), &question) {
        Err(error) if error.is_missing() => Ok(Vec::new()),
        rules => Ok(rules?.iter().filter_map(|rule| read_rule(rule)).collect()),
    }
}

/// Whether a family's table is as [`put`] makes it.
fn is_whole(socket: &mut Socket, family: Family) -> Result<bool, NftError> {
    if !is_hooked(socket, family)? {
        return Ok(false);
    }
    let found = read_rules(socket, family)?;
    let of_chain = |chain: Chain| found.iter().filter(move |rule| rule.chain == chain.name());
    Ok(family.chains().into_iter().all(|(chain, wanted)| {
        let wanted = wanted.iter().map(|rule| {
            let said = rule
                .iter()
                .filter_map(|expression| said(expression.as_bytes()));
            said.collect::<Vec<_>>()
        });
        of_chain(chain)
            .map(|rule| rule.expressions.clone())
            .eq(wanted)
    }))
}

/// What was done for a family.
#[derive(Debug)]
pub enum Stood {
    /// It stands as it should.
    Whole,
    /// It was not there, or not whole, and is put there.
    Put,
    /// It does not stand.
    Failed(NftError),
}

/// Has the guard of every family stand, looking at the whole of it.
#[must_use]
pub fn stand() -> Vec<(Family, Stood)> {
    let stand = |family| {
        let whole = Socket::open().and_then(|mut socket| is_whole(&mut socket, family));
        match whole {
            Ok(true) => Stood::Whole,
            Ok(false) => put(family).map_or_else(Stood::Failed, |()| Stood::Put),
            Err(error) => Stood::Failed(error),
        }
    };
    Family::ALL.map(|family| (family, stand(family))).into()
}

/// Has the guard stand before an interface is marked, and says of which families it does. That the kernel lacks one is no
/// error: the enforcer says so.
///
/// # Errors
/// When the kernel refuses for another reason.
pub(crate) fn ensure() -> Result<Vec<Family>, (Family, NftError)> {
    let mut standing = Vec::new();
    for family in Family::ALL {
        let stood = Socket::open()
            .and_then(|mut socket| is_hooked(&mut socket, family))
            .and_then(|stands| if stands { Ok(()) } else { put(family) });
        match stood {
            Ok(()) => standing.push(family),
            Err(error) if error.is_unsupported() => {}
            Err(error) => return Err((family, error)),
        }
    }
    Ok(standing)
}

/// Whether frames with [`ON_LINK_PRIORITY`] end where a bridge hands them to the node.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn keeps_on_link() -> Result<bool, NftError> {
    match is_hooked(&mut Socket::open()?, Family::Bridge) {
        Err(error) if error.is_unsupported() => Ok(false),
        is_hooked => is_hooked,
    }
}

/// How many packets a family's guard has dropped since it was put there; none where it does not stand.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn dropped(family: Family) -> Result<u64, NftError> {
    let rules = read_rules(&mut Socket::open()?, family)?;
    Ok(rules.iter().map(|rule| rule.packets).sum())
}

/// A number that is another one after every change of the namespace's nftables.
///
/// # Errors
/// When the kernel cannot be asked, or has no nftables.
pub fn generation() -> Result<u32, NftError> {
    let answers = Socket::open()?.ask(kind::GET_GENERATION, false, 0, &Attributes::default())?;
    let number = |answer: &Vec<u8>| {
        let number = nft::find(answer, a::GENERATION)?;
        Some(u32::from_be_bytes(number.try_into().ok()?))
    };
    Ok(answers.iter().find_map(number).unwrap_or_default())
}
