//! What a fuzz target calls, and `tests/corpora.rs` with every file of its corpus.

use netlink_packet_route::RouteNetlinkMessage;

use super::{
    Answer, Family, address, firewall_monitor, interpret, link, local, route, rule, split_message,
};

/// Reads `data` as a datagram from the kernel, to its end or to what makes no sense, and makes of
/// every object what the program would.
pub fn netlink_answer(data: &[u8]) {
    firewall_monitor::concerns(data, &["corelane_corelane0".to_owned()]);
    let mut rest = data;
    while !rest.is_empty() {
        let (message, remaining) = match split_message("fuzz", rest) {
            Ok(parts) => parts,
            Err(error) => return drop(error.to_string()),
        };
        assert!(remaining.len() < rest.len(), "a message without an end");
        rest = remaining;
        match interpret("fuzz", &message) {
            Ok(Answer::Object(object)) => convert(&object),
            Ok(Answer::Undecodable(_) | Answer::Done) => {}
            Err(error) => drop(error.to_string()),
        }
    }
}

fn convert(object: &RouteNetlinkMessage) {
    match object {
        RouteNetlinkMessage::NewLink(message) => drop(link::parse(message)),
        RouteNetlinkMessage::NewAddress(message) => {
            let address = address::parse(message);
            assert!(address.is_none_or(|address| address.device == message.header.index));
        }
        RouteNetlinkMessage::NewRoute(message) => {
            let _ = route::parse(message);
            let tables = [message.header.table.into()].into();
            if let Some(prefix) = local::local_prefix(message, &tables) {
                assert_eq!(prefix, prefix.trunc(), "host bits that no lookup would find");
            }
        }
        RouteNetlinkMessage::NewRule(message) => {
            for family in Family::ALL {
                let _ = rule::parse(family, message);
            }
            let _ = local::table_of_own_packets(message);
        }
        _ => {}
    }
}
