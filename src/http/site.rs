//! Protection of browsers' users: whose pages may send requests to this server, and under which names it is reached.
//!
//! A web page can send requests to any address that its reader can reach, such as a server on loopback. Three rules keep pages of other
//! origins out. `Host` must be a name of this server, which defeats DNS rebinding: a page whose own name was pointed at this server
//! sends that name. `Origin` and `Sec-Fetch-Site`, which pages cannot forge, must not name another origin. And responses can be read
//! only by pages of the origins in `THORAX_CORS_ORIGINS`. Clients other than browsers send neither header.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, Version, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::{ApiError, idempotency::IDEMPOTENCY_KEY, quotas::RATE_LIMIT_HEADERS};

const SEC_FETCH_SITE: &str = "sec-fetch-site";
const SEC_FETCH_MODE: &str = "sec-fetch-mode";

/// Time for which browsers may keep the response to a preflight request.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(600);

/// Names of the server and origins of other pages that may use it; cheap to clone. The default accepts every name and no other origin.
#[derive(Clone, Debug, Default)]
pub struct Site(Arc<Names>);

#[derive(Debug, Default)]
struct Names {
    /// True if a request must name one of the hosts below.
    checked: bool,
    /// The address that the server listens on, and `localhost`, both with the port; of a Unix socket only `localhost`.
    own: Vec<String>,
    /// Configured names, with or without a port, in lower case.
    listed: Vec<String>,
    /// Origins whose pages may send requests and read responses.
    origins: Vec<String>,
    /// True if clients must send an API key.
    needs_key: bool,
}

impl Site {
    /// The site at the bound `address`, which a Unix socket does not have. `hosts` and `origins` are in lower case, origins without the default port of their scheme.
    pub fn new(address: Option<SocketAddr>, needs_key: bool, hosts: &[String], origins: &[String]) -> Self {
        let own = match address {
            Some(address) => own_names(address),
            None => vec!["localhost".into()],
        };
        let checked = !needs_key || !hosts.is_empty();
        Self(Arc::new(Names { checked, own, listed: hosts.to_vec(), origins: origins.to_vec(), needs_key }))
    }

    /// The layer that lets pages of the configured origins read responses (CORS); none without such origins.
    pub(super) fn cors(&self) -> Option<CorsLayer> {
        let origins = self.0.origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
        let name = HeaderName::from_static;
        let layer = CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers([
                header::AUTHORIZATION,
                header::ACCEPT,
                header::CONTENT_TYPE,
                header::CONTENT_ENCODING,
                header::RANGE,
                header::IF_NONE_MATCH,
                IDEMPOTENCY_KEY,
                name("inference-header-content-length"),
                name("last-event-id"),
                name("traceparent"),
                name("tracestate"),
                name("x-request-id"),
            ])
            .expose_headers(
                [
                    header::LOCATION,
                    header::RETRY_AFTER,
                    header::WWW_AUTHENTICATE,
                    header::CONTENT_DISPOSITION,
                    header::CONTENT_LENGTH,
                    header::ETAG,
                    name("idempotency-replayed"),
                    name("inference-header-content-length"),
                    name("traceresponse"),
                    name("x-request-id"),
                ]
                .into_iter()
                .chain(RATE_LIMIT_HEADERS)
                .collect::<Vec<_>>(),
            )
            .max_age(PREFLIGHT_MAX_AGE);
        (!self.0.origins.is_empty()).then_some(layer)
    }

    fn admit(&self, request: &Request) -> Result<(), ApiError> {
        let host = host(request)?;
        match &host {
            Some(host) if !self.accepts_host(host) => {
                return Err(ApiError::Forbidden(format!(
                    "{:?} is not a name of this server: use the address that it prints at start, or add the name to THORAX_HOSTS",
                    host.as_str()
                )));
            }
            None if self.0.checked => return Err(missing_host()),
            _ => {}
        }
        if self.is_foreign(request, host.as_ref()) {
            let origin = request.headers().get(header::ORIGIN).map(|origin| String::from_utf8_lossy(origin.as_bytes()));
            let origin = origin.map(|origin| format!(" ({origin})")).unwrap_or_default();
            return Err(ApiError::Forbidden(format!(
                "a web page of another origin{origin} sent this request: add its origin to THORAX_CORS_ORIGINS to allow it"
            )));
        }
        Ok(())
    }

    fn accepts_host(&self, host: &Authority) -> bool {
        let Names { checked, own, listed, needs_key, .. } = &*self.0;
        let (full, name) = (host.as_str().to_ascii_lowercase(), host.host().to_ascii_lowercase());
        // An attacker cannot point an address at this server, only a name.
        let is_address = || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        !checked
            || own.contains(&full)
            || listed.iter().any(|host| *host == full || *host == name)
            || *needs_key && is_address()
    }

    /// True for a request that a browser sent on behalf of a page of another origin, except that the user may follow links to this server.
    fn is_foreign(&self, request: &Request, host: Option<&Authority>) -> bool {
        let text = |name: &str| {
            let mut sent = request.headers().get_all(name).iter();
            sent.next().map(|value| if sent.next().is_some() { "" } else { value.to_str().unwrap_or_default() })
        };
        if let Some(origin) = text("origin") {
            return !self.accepts_origin(origin, host);
        }
        match text(SEC_FETCH_SITE) {
            None | Some("same-origin" | "none") => false,
            Some(_) => !(request.method().is_safe() && text(SEC_FETCH_MODE) == Some("navigate")),
        }
    }

    /// True for the origin of this server and the configured ones.
    fn accepts_origin(&self, origin: &str, host: Option<&Authority>) -> bool {
        let Names { listed, origins, .. } = &*self.0;
        let Some((scheme, authority)) = origin.split_once("://") else { return false };
        let default_port = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => return origins.iter().any(|allowed| allowed == origin),
        };
        let without_default =
            |authority: &str| authority.strip_suffix(default_port).unwrap_or(authority).to_ascii_lowercase();
        let authority = without_default(authority);
        // The scheme does not count: a proxy may speak TLS in front of this server.
        host.is_some_and(|host| without_default(host.as_str()) == authority)
            || listed.contains(&authority)
            || origins.iter().any(|allowed| *allowed == format!("{scheme}://{authority}"))
    }
}

/// The address that the server listens on and `localhost`, as clients write them in `Host`.
fn own_names(address: SocketAddr) -> Vec<String> {
    let port = address.port();
    let mut own = vec![address.to_string(), format!("localhost:{port}")];
    // Clients omit the default ports of HTTP and HTTPS.
    if matches!(port, 80 | 443) {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        own.extend([ip, "localhost".into()]);
    }
    own
}

/// Refuses requests for other hosts and requests of other sites' pages.
pub(super) async fn check(State(site): State<Site>, request: Request, next: Next) -> Response {
    match site.admit(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// The host that a request names (RFC 9112, 3.2). Only HTTP/1.0, which health checks of some load balancers still use, may omit it.
fn host(request: &Request) -> Result<Option<Authority>, ApiError> {
    let mut sent = request.headers().get_all(header::HOST).iter();
    let (header, second) = (sent.next(), sent.next());
    if second.is_some() {
        return Err(ApiError::Malformed("the request has several Host headers: send one".into()));
    }
    let header = header.map(|value| authority(value.as_bytes())).transpose()?;
    let target = request.uri().authority().map(|target| authority(target.as_str().as_bytes())).transpose()?;
    match (header, target) {
        (Some(header), Some(target)) if header != target => {
            Err(ApiError::Malformed("the Host header and the target of the request name different hosts".into()))
        }
        (None, None) if request.version() == Version::HTTP_10 => Ok(None),
        (None, target) if target.is_none() || request.version() < Version::HTTP_2 => Err(missing_host()),
        (header, target) => Ok(header.or(target)),
    }
}

fn missing_host() -> ApiError {
    ApiError::Malformed("the request has no Host header".into())
}

/// True for a name of letters, digits, hyphens, dots and underscores, and for an address.
fn is_name_or_address(host: &str) -> bool {
    let is_name = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    is_name || v6.is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok())
}

fn authority(text: &[u8]) -> Result<Authority, ApiError> {
    let authority = Authority::try_from(text).ok();
    let is_valid = |authority: &Authority| {
        let port = authority.as_str().strip_prefix(authority.host());
        is_name_or_address(authority.host())
            && port.is_some_and(|port| port.is_empty() || authority.port_u16().is_some())
    };
    authority
        .filter(is_valid)
        .ok_or_else(|| ApiError::Malformed("the Host header is not a host name with an optional port".into()))
}
