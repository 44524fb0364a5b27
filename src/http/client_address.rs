//! Client addresses: the peer of the connection or, behind a trusted proxy, the client that the proxy names.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use ipnet::IpNet;

use super::client::network;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Maximum number of proxies in front of the server. What a client lists beyond them is not read.
const MAX_PROXIES: usize = 16;

/// IP address of the client, as an extension that the listener gives each request. The clients of a Unix socket, which are processes of
/// this machine, have the address of loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddress(pub IpAddr);

impl ClientAddress {
    /// The address by which a client is limited: an IPv4 address, or the /64 network of an IPv6 address.
    pub fn network(self) -> IpAddr {
        network(self.0)
    }
}

/// The header in which proxies name the client. Only one is read: most proxies set one and pass on the other as the client sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// `X-Forwarded-For` and `X-Forwarded-Host`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Proxies that may name the client.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    /// Networks of the proxies.
    pub networks: Vec<IpNet>,
    /// True if the peers of the Unix socket are proxies.
    pub unix: bool,
    /// The header that they set.
    pub forwarding: Forwarding,
}

/// A hop that a forwarding header names.
#[derive(Debug, Default, PartialEq)]
struct Hop {
    /// Sender of the request; `None` if the proxy hides it.
    address: Option<IpAddr>,
    host: Option<String>,
}

impl TrustedProxies {
    /// True if the peer of a connection is a proxy; `None` is a peer of the Unix socket.
    pub fn include(&self, peer: Option<IpAddr>) -> bool {
        match peer {
            Some(address) => self.networks.iter().any(|network| network.contains(&address)),
            None => self.unix,
        }
    }

    /// Gives a request from `peer` its [`ClientAddress`] and its `Host` header, and removes the forwarding headers, so that nothing
    /// else can believe them.
    ///
    /// The client is the last address that no trusted proxy has: what stands before it is what that client claims.
    pub fn resolve<B>(&self, peer: Option<IpAddr>, request: &mut Request<B>) {
        let headers = request.headers_mut();
        let (mut client, mut is_renamed) = (peer, false);
        if self.include(peer) {
            let hops = match self.forwarding {
                Forwarding::XForwarded => x_forwarded(headers),
                Forwarding::Forwarded => forwarded(headers),
            };
            // The last one comes from the nearest proxy, which the others are behind.
            let host = hops.first().and_then(|hop| hop.host.as_deref());
            if let Some(host) = host.and_then(|host| HeaderValue::from_str(host).ok()) {
                headers.insert(header::HOST, host);
                is_renamed = true;
            }
            for hop in hops.into_iter().take(MAX_PROXIES) {
                let Some(address) = hop.address else { break };
                client = Some(address);
                if !self.include(client) {
                    break;
                }
            }
        }
        for name in [X_FORWARDED_FOR, X_FORWARDED_HOST, header::FORWARDED] {
            headers.remove(name);
        }
        if is_renamed {
            // With HTTP/2 the target of the request names the host, too.
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            *request.uri_mut() = Uri::try_from(path).expect("the path of a request");
        }
        let address = client.unwrap_or(Ipv4Addr::LOCALHOST.into());
        request.extensions_mut().insert(ClientAddress(address));
    }
}

/// Hops of `X-Forwarded-For`, the nearest first.
fn x_forwarded(headers: &HeaderMap) -> Vec<Hop> {
    let addresses = elements(headers, &X_FORWARDED_FOR, ',').into_iter().rev();
    let mut hops: Vec<Hop> = addresses.map(|text| Hop { address: address(text), host: None }).collect();
    if let Some(host) = elements(headers, &X_FORWARDED_HOST, ',').last() {
        if hops.is_empty() {
            hops.push(Hop::default());
        }
        hops[0].host = Some((*host).to_owned());
    }
    hops
}

/// Hops of `Forwarded`, the nearest first.
fn forwarded(headers: &HeaderMap) -> Vec<Hop> {
    let hop = |element: &str| {
        let mut hop = Hop::default();
        for pair in split(element, ';') {
            let Some((name, value)) = pair.split_once('=') else { continue };
            let value = unquote(value.trim());
            match name.trim().to_ascii_lowercase().as_str() {
                "for" => hop.address = address(&value),
                "host" => hop.host = Some(value),
                _ => {}
            }
        }
        hop
    };
    elements(headers, &header::FORWARDED, ',').into_iter().rev().map(hop).collect()
}

/// Elements of all lines of a header, in order.
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName, separator: char) -> Vec<&'a str> {
    // A value that is not text hides what it names, as an unknown address does.
    let lines = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("unknown"));
    lines.flat_map(|line| split(line, separator)).collect()
}

/// Splits at a separator outside quoted strings; without empty parts.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text.split(move |character: char| {
        let separates = character == separator && !quoted;
        quoted ^= character == '"' && !escaped;
        escaped = quoted && character == '\\' && !escaped;
        separates
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// The value of a token or quoted string.
fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return value.to_owned() };
    let mut escaped = false;
    inner
        .chars()
        .filter(|character| {
            escaped = *character == '\\' && !escaped;
            !escaped
        })
        .collect()
}

/// An address as proxies write it: with or without port, IPv6 with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let parsed = IpAddr::from_str(bare).or_else(|_| SocketAddr::from_str(text).map(|address| address.ip()));
    parsed.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn proxies(forwarding: Forwarding) -> TrustedProxies {
        let networks = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        TrustedProxies { networks, unix: true, forwarding }
    }

    /// The client and the host of a request from `peer` with these headers; an empty peer is one of the Unix socket.
    fn resolve(proxies: &TrustedProxies, peer: &str, headers: &[(&str, &str)]) -> (String, String) {
        let mut request = Request::builder().header("host", "upstream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        proxies.resolve(peer.parse().ok(), &mut request);
        let left = request.headers().keys().filter(|name| name.as_str().contains("forwarded")).count();
        assert_eq!(left, 0, "nothing else may believe them");
        let ClientAddress(client) = request.extensions().get().unwrap();
        (client.to_string(), request.headers()["host"].to_str().unwrap().to_owned())
    }

    #[test]
    fn forwarding_headers_of_a_peer_that_is_not_a_listed_proxy_are_ignored() {
        let headers = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-host", "a"), ("forwarded", "for=203.0.113.9")];
        let nobody = TrustedProxies::default();
        for forwarding in [Forwarding::XForwarded, Forwarding::Forwarded] {
            assert_eq!(resolve(&proxies(forwarding), "192.0.2.1", &headers), ("192.0.2.1".into(), "upstream".into()));
        }
        assert_eq!(resolve(&nobody, PROXY, &headers), (PROXY.into(), "upstream".into()));
        assert_eq!(resolve(&nobody, "", &headers), ("127.0.0.1".into(), "upstream".into()), "of the Unix socket");
    }

    #[test]
    fn client_is_the_last_address_that_is_not_a_proxy() {
        let client = |value: &str| resolve(&proxies(Forwarding::XForwarded), PROXY, &[("x-forwarded-for", value)]).0;
        assert_eq!(client("203.0.113.9"), "203.0.113.9");
        assert_eq!(client("198.51.100.1, 203.0.113.9"), "203.0.113.9", "the client claims what stands before it");
        assert_eq!(client("203.0.113.9, 10.1.2.3,10.0.0.2"), "203.0.113.9", "a chain of proxies");
        assert_eq!(client("203.0.113.9:4711"), "203.0.113.9");
        assert_eq!(client("[2001:db8::1]:4711, fd00::2"), "2001:db8::1");
        assert_eq!(client("::ffff:203.0.113.9"), "203.0.113.9");
        assert_eq!(client("10.1.2.3"), "10.1.2.3", "a client in the network of the proxies");
        assert_eq!(client("203.0.113.9, unknown, 10.0.0.2"), "10.0.0.2", "hidden by a proxy");
        for nothing in ["", "nonsense", ",,", "203.0.113.9, "] {
            let expected = if nothing.starts_with('2') { "203.0.113.9" } else { PROXY };
            assert_eq!(client(nothing), expected, "{nothing:?}");
        }
        let lines = [("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "203.0.113.9")];
        assert_eq!(resolve(&proxies(Forwarding::XForwarded), PROXY, &lines).0, "203.0.113.9", "the last line");
        assert_eq!(
            resolve(&proxies(Forwarding::XForwarded), "", &lines).0,
            "203.0.113.9",
            "a proxy on the Unix socket"
        );
    }

    #[test]
    fn only_the_configured_header_is_read() {
        let headers =
            [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-host", "x"), ("forwarded", "for=198.51.100.1;host=f")];
        assert_eq!(resolve(&proxies(Forwarding::XForwarded), PROXY, &headers), ("203.0.113.9".into(), "x".into()));
        assert_eq!(resolve(&proxies(Forwarding::Forwarded), PROXY, &headers), ("198.51.100.1".into(), "f".into()));
    }

    #[test]
    fn forwarded_is_read_with_its_quoted_strings() {
        let found = |value: &str| resolve(&proxies(Forwarding::Forwarded), PROXY, &[("forwarded", value)]);
        assert_eq!(found("for=203.0.113.9;proto=https;host=thorax.example").1, "thorax.example");
        assert_eq!(found("For=\"[2001:db8::1]:4711\";by=10.0.0.1").0, "2001:db8::1");
        assert_eq!(found("for=198.51.100.1, for=203.0.113.9;proto=http, for=10.0.0.3").0, "203.0.113.9");
        assert_eq!(found("for=\"198.51.100.1, for=203.0.113.9\"").0, PROXY, "one quoted string, not two elements");
        assert_eq!(found("for=\"203.0.113.\\9\"").0, "203.0.113.9", "a quoted pair");
        assert_eq!(found("for=_hidden, for=10.0.0.3").0, "10.0.0.3");
        assert_eq!(found("for=203.0.113.9;host=\"a:1\", for=10.0.0.3;host=b").1, "b", "of the nearest proxy");
    }

    #[test]
    fn the_host_of_a_proxy_replaces_that_of_the_target() {
        let request = Request::builder().uri("http://upstream:8080/v1/models?limit=1");
        let mut request = request.header("x-forwarded-host", "thorax.example").body(()).unwrap();
        proxies(Forwarding::XForwarded).resolve(PROXY.parse().ok(), &mut request);
        assert_eq!(
            (request.uri().to_string().as_str(), request.headers()["host"].to_str().unwrap()),
            ("/v1/models?limit=1", "thorax.example")
        );
    }
}
