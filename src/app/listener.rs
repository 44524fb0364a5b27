//! The listening socket: TCP or Unix.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::AppError;
use crate::config::ListenAddress;

/// A bound socket.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

/// An accepted connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A Unix socket, whose file is deleted on drop unless another server has replaced it.
pub(super) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Listener {
    /// Binds the address; `mode` is the permissions of a Unix socket. Returns the listener and the address with its actual port.
    pub(super) async fn bind(address: &ListenAddress, mode: u32) -> Result<(Self, ListenAddress), AppError> {
        let bound = match address {
            ListenAddress::Tcp(tcp) => bind_tcp(*tcp).await,
            ListenAddress::Unix(path) => bind_unix(path, mode).map(|socket| (Self::Unix(socket), address.clone())),
        };
        bound.map_err(|source| AppError::Listen { address: address.clone(), source })
    }

    /// Accepts a connection. Returns it and the IP address of the peer, which a Unix socket does not have.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Responses are small and written at once, so Nagle's algorithm would only delay them.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                Ok((Stream::Tcp(stream), Some(peer.ip().to_canonical())))
            }
            Self::Unix(socket) => Ok((Stream::Unix(socket.listener.accept().await?.0), None)),
        }
    }
}

async fn bind_tcp(address: std::net::SocketAddr) -> io::Result<(Listener, ListenAddress)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((Listener::Tcp(listener), ListenAddress::Tcp(bound)))
}

/// Binds a Unix socket. Replaces the file of a server that has ended; never another file, nor the socket of a running server.
fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixSocket> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    let inode = fs::symlink_metadata(path)?.ino();
    Ok(UnixSocket { listener, path: path.to_owned(), inode })
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is not a socket: remove it"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on it")),
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the Unix socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_replaces_only_the_file_of_a_server_that_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let address = ListenAddress::Unix(path.clone());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (first, bound) = Listener::bind(&address, 0o600).await.unwrap();
        assert_eq!((bound, mode(&path)), (address.clone(), 0o600));
        let in_use = Listener::bind(&address, 0o600).await.err().unwrap().to_string();
        assert!(in_use.contains("another process listens"), "{in_use}");
        drop(first);
        assert!(!path.exists(), "removed by its server");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left by a server that was killed");
        let (second, _) = Listener::bind(&address, 0o660).await.unwrap();
        assert_eq!(mode(&path), 0o660);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "data").unwrap();
        drop(second);
        let occupied = Listener::bind(&address, 0o600).await.err().unwrap().to_string();
        assert!(occupied.contains("not a socket") && fs::read(&path).unwrap() == b"data", "{occupied}");
    }
}
