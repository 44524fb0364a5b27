//! The network address of a client, which limits and the log refer to.

use std::net::IpAddr;

/// Address of the client that sent a request: a request extension that the listener sets for each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddress(pub IpAddr);
