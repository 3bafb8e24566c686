//! What is allowed and probably not meant.

use super::Checked;
use crate::trunk::{SrtpPolicy, Transport};
use ipnet::IpNet;

/// One line each. The configuration has no faults.
pub(super) fn warnings(checked: &Checked) -> Vec<String> {
    let mut warnings = vec![];
    let ports = &checked.media.limits.ports;
    // A call takes two even ports; of these the range has one more than half its length.
    let calls = (u32::from(*ports.end() - *ports.start()) / 2).div_ceil(2);
    if calls < checked.sip.max_calls {
        let max_calls = checked.sip.max_calls;
        warnings
            .push(format!("media.ports has room for {calls} calls, fewer than sip.max_calls = {max_calls}"));
    }
    for (index, listen) in checked.sip.listen.iter().enumerate() {
        if listen.transport == Transport::Udp && ports.contains(&listen.address.port()) {
            warnings.push(format!("sip.listen[{index}] = \"{listen}\" lies within media.ports"));
        }
    }
    if !checked.http.listen.ip().is_loopback() {
        let listen = checked.http.listen;
        warnings.push(format!(
            "http.listen = \"{listen}\" serves without TLS beyond this machine; put a TLS proxy before it"
        ));
    }
    let mut earlier: Vec<(&str, &IpNet)> = vec![];
    for (index, (_, trunk)) in checked.trunks.iter().enumerate() {
        for (entry, network) in trunk.allow.iter().enumerate() {
            let path = format!("trunks[{index}].allow[{entry}] = \"{network}\"");
            if network.prefix_len() == 0 && !trunk.challenge {
                warnings.push(format!("{path} lets everybody call in, without a password"));
            }
            if let Some((name, _)) =
                earlier.iter().find(|(name, wider)| *name != trunk.name && wider.contains(network))
            {
                warnings.push(format!("{path} is never reached: trunk {name} takes these addresses first"));
            }
        }
        let short =
            trunk.credentials.as_ref().is_some_and(|known| known.password.reveal().chars().count() < 12);
        if trunk.challenge && short {
            warnings.push(format!(
                "trunks[{index}].password has fewer than 12 characters, and whoever is in trunks[{index}].allow may try"
            ));
        }
        // The keys stand in the SDP: whoever reads it hears the call (RFC 4568 §8).
        if trunk.srtp != SrtpPolicy::Off {
            let open = trunk.gateways.iter().enumerate().filter(|(_, gateway)| !gateway.is_secure());
            warnings.extend(open.map(|(entry, gateway)| {
                format!(
                    "trunks[{index}].gateways[{entry}] = \"{gateway}\" is not TLS, so the keys of \
                     trunks[{index}].srtp can be read on the way"
                )
            }));
            let listens = checked.sip.listen.iter().any(|listen| listen.transport == Transport::Tls);
            if !trunk.allow.is_empty() && !listens {
                warnings.push(format!(
                    "trunks[{index}].srtp is on, but sip.listen has no tls:// for the calls that come in"
                ));
            }
        }
        earlier.extend(trunk.allow.iter().map(|network| (trunk.name.as_str(), network)));
    }
    warnings
}

/// A warning when RTP ports lie where the kernel takes ports for others: then one may be in use already.
/// `range` is the text of `/proc/sys/net/ipv4/ip_local_port_range`.
pub(super) fn ephemeral_overlap(checked: &Checked, range: &str) -> Option<String> {
    let mut bounds = range.split_whitespace().map(str::parse::<u16>);
    let (low, high) = (bounds.next()?.ok()?, bounds.next()?.ok()?);
    let ports = &checked.media.limits.ports;
    (low <= ports.end().saturating_add(1) && *ports.start() <= high).then(|| {
        format!(
            "media.ports = [{}, {}] overlaps the kernel's own ports, {low} to {high} \
             (net.ipv4.ip_local_port_range); a port may be taken by another program",
            ports.start(),
            ports.end()
        )
    })
}
