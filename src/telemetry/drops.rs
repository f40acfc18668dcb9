//! Why a packet was not delivered: one reason, one counter, one line of documentation.
//!
//! The table below is the only list of reasons. The name in it is the key in `status --json` and
//! the sentence is what `docs/operations.md` and `corelane status` print.

macro_rules! drop_reasons {
    ($($variant:ident, $name:literal, $doc:literal;)*) => {
        /// Why a packet or message was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $(#[doc = $doc] $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name: the key in `status --json` and in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What happened, in one sentence.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }
        }
    };
}

drop_reasons! {
    // From the wire, before authentication.
    DatagramTruncated, "datagram_truncated",
        "A datagram was shorter than its message type requires.";
    DatagramTooLong, "datagram_too_long",
        "A datagram was longer than its message type allows.";
    DatagramUnknownType, "datagram_unknown_type",
        "A datagram's first byte named no message type, or reserved bytes were not zero.";
    SessionUnknown, "session_unknown",
        "A data message named a receiver index that no session has.";
    LaneWrong, "lane_wrong",
        "A data message arrived on a lane that its worker does not receive.";
    KeyExhausted, "key_exhausted",
        "A lane key had sealed or opened as many packets as it may.";
    Replayed, "replayed",
        "A data message repeated a counter or was older than the replay window.";
    AuthenticationFailed, "authentication_failed",
        "A data message failed to authenticate.";
    // From the wire, after authentication.
    InnerMalformed, "inner_malformed",
        "A decrypted packet was not a well-formed IP packet or path message.";
    InnerSourceNotAllowed, "inner_source_not_allowed",
        "A decrypted packet's source address does not belong to the peer that sent it.";
    AclDenied, "acl_denied",
        "A packet was between a peer and a far end that the peer's rules do not allow.";
    PeerIsolated, "peer_isolated",
        "A packet was between two peers that are kept apart.";
    RateExceeded, "rate_exceeded",
        "A packet came while too many waited under its user's limit already.";
    WaitingRoomFull, "waiting_room_full",
        "A packet had to wait under its user's limit, and the worker had no memory for it.";
    PathMessageExcess, "path_message_excess",
        "A path message came on a lane that had brought more of them than one has a reason to.";
    EcnIllegal, "ecn_illegal",
        "A packet that does not support ECN arrived marked as congested outside (RFC 6040).";
    TunWriteFailed, "tun_write_failed",
        "The TUN device refused a packet.";
    TunQueueFull, "tun_queue_full",
        "The TUN device had no room for a packet.";
    // From the TUN device.
    PacketMalformed, "packet_malformed",
        "The TUN device delivered something that is not a well-formed IP packet.";
    NoRoute, "no_route",
        "No peer owns the destination address of a packet.";
    NoSession, "no_session",
        "The peer that owns the destination has no session yet.";
    NoPath, "no_path",
        "The peer's session has no known address on this worker's path yet.";
    RoutingLoop, "routing_loop",
        "A route led one of the tunnel's own datagrams back into the tunnel.";
    PacketTooBig, "packet_too_big",
        "A packet did not fit the path and was answered with ICMP \"too big\".";
    PacketTooBigUnanswered, "packet_too_big_unanswered",
        "A packet did not fit the path and was not answered: answers were given too fast already.";
    SendFailed, "send_failed",
        "The kernel refused to send a datagram.";
    // Control thread.
    ControlQueueFull, "control_queue_full",
        "The kernel had no room for a datagram that was not for a worker.";
    HandshakeOverload, "handshake_overload",
        "A handshake was dropped unread: more came than are read, and its source was new or came \
         too often.";
    HandshakeMacInvalid, "handshake_mac_invalid",
        "A handshake message was not addressed to this key (mac1).";
    HandshakeCookieRequired, "handshake_cookie_required",
        "A handshake was answered with a cookie: its source had not proved its address under load.";
    HandshakeRateLimited, "handshake_rate_limited",
        "A source sent handshakes faster than one source may.";
    HandshakeInvalid, "handshake_invalid",
        "A handshake message failed to authenticate or decode.";
    HandshakePeerUnknown, "handshake_peer_unknown",
        "A handshake came from a key that no peer has.";
    HandshakeReplayed, "handshake_replayed",
        "A handshake carried a timestamp that is not newer than the last.";
    HandshakeUnexpected, "handshake_unexpected",
        "A handshake answer matched no handshake in progress.";
    CookieInvalid, "cookie_invalid",
        "A cookie reply failed to authenticate.";
    // The carrier.
    CarrierQueueFull, "carrier_queue_full",
        "A datagram found no room in front of a carrier's TLS connection.";
    CarrierTooLate, "carrier_too_late",
        "A datagram had waited too long for a carrier's TLS connection to take it.";
    CarrierStranger, "carrier_stranger",
        "A carrier's socket on loopback got a datagram from somebody else.";
    CarrierSendFailed, "carrier_send_failed",
        "The kernel refused a datagram that a carrier had brought.";
}

#[cfg(test)]
mod tests {
    use super::DropReason;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_every_reason_has_its_own_slot() {
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (slot, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, slot);
        }
    }
}
