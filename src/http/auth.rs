//! Authentication with the operator's API key, on the routers that require it (see `router` in the parent module).

use std::time::Instant;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use subtle::ConstantTimeEq;

use super::{
    Access, ApiError, ClientAddress,
    client::{Client, network},
    state::ADMIN,
};

/// Admits a request if the server has no key, or if the request sends it (compared in constant time). After wrong keys the address is
/// blocked for a time that grows.
pub(super) async fn require_key(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    match authenticate(&access, &request) {
        Ok(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

fn authenticate(access: &Access, request: &Request) -> Result<Client, ApiError> {
    let address = request.extensions().get().copied();
    let ClientAddress(address) =
        address.ok_or_else(|| ApiError::internal("the listener did not set the client's address"))?;
    let Some(key) = &access.admin_key else { return Ok(Client::Network(network(address))) };
    if !request.headers().contains_key(header::AUTHORIZATION) {
        return Err(ApiError::Unauthorized);
    }
    let now = Instant::now();
    if let Some(left) = access.wrong_keys.blocked(address, now) {
        let retry_after_seconds = left.as_secs() + 1;
        let detail = format!("too many wrong API keys from this address: retry in {retry_after_seconds} s");
        return Err(ApiError::LimitExceeded { detail, retry_after_seconds });
    }
    let sent = bearer_token(request.headers()).unwrap_or_default();
    if bool::from(sent.as_bytes().ct_eq(key.as_bytes())) {
        return Ok(Client::Key(ADMIN));
    }
    let (failures, block) = access.wrong_keys.record(address, now);
    tracing::warn!(%address, failures, blocked_seconds = block.as_secs(), "wrong API key");
    Err(ApiError::Unauthorized)
}

/// The token of the only `Authorization` header. The name of the scheme is case-insensitive (RFC 9110, 11.1).
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (sent.next(), sent.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_token_of_one_header_with_any_case_of_the_scheme() {
        let token = |values: &[&str]| {
            let headers = values.iter().map(|value| (header::AUTHORIZATION, value.parse().unwrap()));
            let mut map = HeaderMap::new();
            headers.for_each(|(name, value)| {
                map.append(name, value);
            });
            bearer_token(&map).map(str::to_owned)
        };
        for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
            assert_eq!(token(&[&format!("{scheme} key")]).as_deref(), Some("key"));
            assert_eq!(token(&[&format!("{scheme}   key")]).as_deref(), Some("key"));
        }
        for other in ["key", "Basic key", "Bearerkey", "Bearer", ""] {
            assert_eq!(token(&[other]), None, "{other}");
        }
        assert_eq!(token(&["Bearer key", "Bearer key"]), None, "sent twice");
        assert_eq!(token(&[]), None);
    }
}
