//! Values of the network settings: the address to listen on, and the proxies in front of the server.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::Args;
use ipnet::IpNet;

/// Prefix of the path of a Unix socket.
const UNIX_PREFIX: &str = "unix:";

/// Connections: TLS, the socket, the proxies in front of it, and limits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connections")]
pub struct NetworkConfig {
    /// PEM file with the TLS certificate, and after it the chain of its issuers. [default: none, connections are not encrypted]
    ///
    /// Changed files are loaded within seconds, without a restart; if they cannot be used, the old certificate stays in use.
    #[arg(long, env = "THORAX_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the private key of the TLS certificate.
    #[arg(long, env = "THORAX_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Permissions of the Unix socket, in octal notation. `660` also admits the group of the process.
    #[arg(long, env = "THORAX_UNIX_SOCKET_MODE", value_name = "MODE", default_value = "600", value_parser = socket_mode)]
    pub unix_socket_mode: u32,

    /// Addresses and networks of reverse proxies, separated by commas, such as `10.0.0.0/8,192.0.2.7`. [default: none]
    ///
    /// The address of the client, for limits and the log, is taken from the forwarding header of these peers only. `unix`
    /// stands for the peers of the Unix socket.
    #[arg(long, env = "THORAX_TRUSTED_PROXIES", value_name = "NETWORKS", value_delimiter = ',')]
    pub trusted_proxies: Vec<TrustedProxy>,

    /// Header in which the trusted proxies name the client. The proxies must set it, whatever the client has sent.
    #[arg(long, env = "THORAX_FORWARDED_HEADER", value_name = "HEADER", default_value = "x-forwarded")]
    pub forwarded_header: ForwardedHeader,

    /// Maximum number of connections. [default: 1024, or what half of the limit of open files allows]
    ///
    /// Beyond it, a new connection replaces the one that has been idle for longest. If every connection has a request in
    /// flight, probes are answered all the same, and other requests get 503.
    #[arg(long, env = "THORAX_MAX_CONNECTIONS", value_name = "CONNECTIONS")]
    pub max_connections: Option<NonZeroUsize>,

    /// Maximum number of connections of an IPv4 address or an IPv6 /64 network. [default: a quarter of all connections]
    ///
    /// Loopback addresses, the Unix socket and trusted proxies have no such limit.
    #[arg(long, env = "THORAX_MAX_CONNECTIONS_PER_ADDRESS", value_name = "CONNECTIONS")]
    pub max_connections_per_address: Option<NonZeroUsize>,

    /// Maximum size of a request line with its header fields in bytes. Larger ones get 431.
    #[arg(long, env = "THORAX_MAX_HEAD_BYTES", value_name = "BYTES", default_value_t = 16 << 10,
          value_parser = clap::value_parser!(u32).range(1024..=(32 << 10)))]
    pub max_head_bytes: u32,

    /// Maximum time in seconds for the TLS handshake and for each request head, after which the connection is closed.
    #[arg(long, env = "THORAX_HEAD_SECONDS", value_name = "SECONDS", default_value_t = 15,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub head_seconds: u64,

    /// Keep-alive timeout in seconds: time between two requests, after which the connection is closed.
    ///
    /// It must be longer than the idle timeout of a load balancer in front of the server.
    #[arg(long, env = "THORAX_KEEP_ALIVE_SECONDS", value_name = "SECONDS", default_value_t = 75,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub keep_alive_seconds: u64,
}

impl NetworkConfig {
    /// Maximum time for the TLS handshake and for each request head.
    pub fn head_timeout(&self) -> Duration {
        Duration::from_secs(self.head_seconds)
    }

    /// Maximum time between two requests.
    pub fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.keep_alive_seconds)
    }

    /// Files of the certificate and of its key.
    pub fn tls(&self) -> Option<(&Path, &Path)> {
        self.tls_cert.as_deref().zip(self.tls_key.as_deref())
    }
}

/// Address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// IP address and port.
    Tcp(SocketAddr),
    /// Path of a Unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// True if only processes of this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix(UNIX_PREFIX) {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err(format!("the path of a Unix socket must be absolute (got {path:?})"))
            };
        }
        let invalid = "must be an IP address and a port, such as 127.0.0.1:8080, or unix:/path/of/a/socket";
        text.parse().map(Self::Tcp).map_err(|_| invalid.into())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "{UNIX_PREFIX}{}", path.display()),
        }
    }
}

/// Peers whose forwarding headers are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedProxy {
    /// A network in CIDR notation, or one address.
    Network(IpNet),
    /// Every peer of the Unix socket.
    Unix,
}

impl FromStr for TrustedProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Self::Network).map_err(|_| "must be an address or a network, such as 10.0.0.0/8, or unix".into())
    }
}

/// Header in which the trusted proxies name the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For` and `X-Forwarded-Host`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Permissions of the Unix socket in octal notation.
pub(super) fn socket_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| mode & !0o777 == 0 && mode & 0o600 == 0o600);
    mode.ok_or_else(|| "must be three octal digits that let the owner read and write, such as 600 or 660".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_are_read_and_written_in_the_same_form() {
        for (text, local) in
            [("127.0.0.1:8080", true), ("[::1]:0", true), ("0.0.0.0:80", false), ("unix:/run/thorax/socket", true)]
        {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.is_local()), (text, local));
        }
        for text in ["", "8080", "localhost:80", "unix:", "unix:relative/path", "/run/thorax"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn proxies_are_addresses_networks_or_the_unix_socket() {
        for text in ["10.0.0.0/8", "192.0.2.7", "::1", "2001:db8::/32", "unix"] {
            assert!(text.parse::<TrustedProxy>().is_ok(), "{text}");
        }
        for text in ["", "*", "10.0.0.0/33", "proxy.example", "unix:/run/thorax"] {
            assert!(text.parse::<TrustedProxy>().is_err(), "{text}");
        }
    }

    #[test]
    fn modes_of_the_socket_are_octal_and_keep_the_owner_in() {
        assert_eq!((socket_mode("600"), socket_mode("0660")), (Ok(0o600), Ok(0o660)));
        for text in ["", "rw", "060", "9", "1777", "-1"] {
            assert!(socket_mode(text).is_err(), "{text}");
        }
    }
}
