//! Host names and web origins in the configuration.

/// A host name or address with an optional port, in lower case.
pub(super) fn host(text: &str) -> Result<String, String> {
    let host = text.trim().to_ascii_lowercase();
    let valid = is_authority(&host);
    if valid {
        Ok(host)
    } else {
        Err("must be a host name with an optional port, such as thorax.example.org or localhost:9000".into())
    }
}

/// An origin (RFC 6454) as browsers write it: in lower case, without the default port of its scheme.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let origin = text.trim().trim_end_matches('/').to_ascii_lowercase();
    if origin.contains('*') {
        return Err("must not contain a wildcard: list each origin".into());
    }
    let parts = origin.split_once("://").filter(|(scheme, authority)| is_scheme(scheme) && is_authority(authority));
    let Some((scheme, authority)) = parts else {
        return Err("must be a scheme, a host and an optional port, such as https://viewer.example.org or http://localhost:3000".into());
    };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    Ok(format!("{scheme}://{}", authority.strip_suffix(default_port).unwrap_or(authority)))
}

fn is_scheme(scheme: &str) -> bool {
    scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
}

fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok());
    let is_name = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    (is_name || is_address) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hosts_and_refuses_what_is_none() {
        for (text, expected) in [
            ("Thorax.Example.org", "thorax.example.org"),
            (" localhost:9000", "localhost:9000"),
            ("192.0.2.1", "192.0.2.1"),
            ("[::1]:8080", "[::1]:8080"),
            ("[2001:db8::1]", "[2001:db8::1]"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(expected));
        }
        for text in
            ["", "*", "*.example.org", "http://a", "a/b", "a:0", "a:99999", "a:", ":80", "::1", "[x]", "a b", "user@a"]
        {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn reads_origins_as_browsers_write_them_and_refuses_wildcards() {
        for (text, expected) in [
            ("https://Viewer.example.org/", "https://viewer.example.org"),
            ("https://a:443", "https://a"),
            ("http://a:80", "http://a"),
            ("http://a:443", "http://a:443"),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ] {
            assert_eq!(origin(text).as_deref(), Ok(expected));
        }
        assert!(origin("*").unwrap_err().contains("wildcard"));
        assert!(origin("https://*.example.org").unwrap_err().contains("wildcard"));
        for text in ["", "null", "example.org", "https://", "https://a/path", "https://a b", "//a", "https://user@a"] {
            assert!(origin(text).is_err(), "{text}");
        }
    }
}
