//! Who may see what on the page. Decided for each request, from what its connection and its headers show.
//!
//! Where nothing has to be shown, everybody on this machine may do everything; there a page of another site, in the same
//! browser, is the only stranger: it can send requests here, and must neither read an answer (the host's name is looked at)
//! nor bring anything about (the origin and the content type are).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use began_credentials::{Page as Guard, Right, Role};

use crate::gate::turned_away::TurnedAway;

/// The cookie that carries a page key.
pub const KEY_COOKIE: &str = "began_page_key";

/// What one reads who has shown nothing.
const NOTHING_SHOWN: &str = "a page key or a client certificate is needed; `launcher page RUN` prints the key";

/// What is known of a connection; on every request that comes over it.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// Where it comes from.
    pub from: SocketAddr,
    /// What its certificate says.
    pub role: Option<Role>,
}

/// Who asks; on every request that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visitor {
    /// Whether it may order checkpoints, samples and a stop.
    pub may_control: bool,
    /// Whether it came in with a key in a cookie.
    pub signed_in: bool,
}

/// What decides.
#[derive(Debug)]
pub struct Porter {
    /// How the page is guarded.
    pub guard: Guard,
    /// Where those go who are turned away.
    pub log: Arc<TurnedAway>,
}

/// Lets requests through, or says why not.
pub async fn guard(State(porter): State<Arc<Porter>>, mut request: Request, next: Next) -> Response {
    let shown = request.extensions().get::<Shown>().copied();
    let path = request.uri().path();
    match porter.decide(shown, request.method(), path, request.headers()) {
        Ok(visitor) => {
            request.extensions_mut().insert(visitor);
            next.run(request).await
        }
        Err((status, why)) => {
            // A browser comes without anything at first: no news.
            if let Some(shown) = shown.filter(|_| why != NOTHING_SHOWN) {
                porter.log.note(shown.from.ip().to_canonical(), &format!("the page: {why}"));
            }
            super::answers::refusal(status, why).into_response()
        }
    }
}

impl Porter {
    fn decide(
        &self,
        shown: Option<Shown>,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Visitor, (StatusCode, &'static str)> {
        let bad = |why| Err((StatusCode::BAD_REQUEST, why));
        let host = text(headers, HOST.as_str());
        if !self.guard.is_secure() && !host.is_some_and(is_this_machine) {
            return bad("this page is reached by this machine's own names alone: 127.0.0.1, [::1] or localhost");
        }
        if method == Method::POST {
            if !text(headers, CONTENT_TYPE.as_str()).is_some_and(|kind| kind.trim().starts_with("application/json")) {
                return bad("a POST must be application/json");
            }
            let own = |origin: &str| origin.split_once("://").is_some_and(|(_, of)| Some(of) == host);
            if headers.contains_key(ORIGIN) && !text(headers, ORIGIN.as_str()).is_some_and(own) {
                return Err((StatusCode::FORBIDDEN, "the request comes from a page of another site"));
            }
        }
        let Some(keys) = self.guard.keys() else { return Ok(Visitor { may_control: true, signed_in: false }) };
        let bearer = text(headers, AUTHORIZATION.as_str()).and_then(|text| text.strip_prefix("Bearer "));
        let cookie = cookie(headers);
        let by_key = |key: Option<&str>| key.and_then(|key| keys.role(key.trim()));
        let by_cookie = by_key(cookie);
        let role = shown.and_then(|shown| shown.role).or_else(|| by_key(bearer)).or(by_cookie);
        // What is open says nothing of the run.
        let open = path == "/" || path.starts_with("/assets/") || path == "/healthz" || path == "/api/login";
        match role {
            Some(role) if role.may(Right::Look) => {
                let may_control = role.may(Right::Control);
                if path == "/api/control" && !may_control {
                    return Err((StatusCode::FORBIDDEN, "this needs the right to control the run"));
                }
                Ok(Visitor { may_control, signed_in: by_cookie.is_some() })
            }
            _ if open => Ok(Visitor { may_control: false, signed_in: false }),
            Some(_) => Err((StatusCode::FORBIDDEN, "this role may not look at the page")),
            None if bearer.is_some() || cookie.is_some() => {
                Err((StatusCode::UNAUTHORIZED, "that is no page key of this run"))
            }
            None => Err((StatusCode::UNAUTHORIZED, NOTHING_SHOWN)),
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == KEY_COOKIE).map(|(_, value)| value)
}

/// Whether a `Host` can only mean this machine: no other name can be made to point here.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use began_credentials::{PageKeys, Token};

    type Result = std::result::Result<(), Box<dyn std::error::Error>>;

    fn porter(guard: Guard) -> Porter {
        Porter { guard, log: Arc::new(TurnedAway::new(Box::new(|_| {}))) }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> std::result::Result<HeaderMap, Box<dyn std::error::Error>> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value)?);
        }
        Ok(headers)
    }

    #[test]
    fn on_one_machine_everybody_may_do_everything_but_a_page_of_another_site_nothing() -> Result {
        let porter = porter(Guard::plain());
        let status = |method: Method, pairs: &[(&'static str, &str)]| {
            let headers = headers(pairs)?;
            let decided = porter.decide(None, &method, "/api/control", &headers);
            Ok::<_, Box<dyn std::error::Error>>(decided.map_or_else(|(status, _)| status.as_u16(), |_| 200))
        };
        let json = ("content-type", "application/json");
        for host in ["127.0.0.1:7431", "localhost:7431", "LOCALHOST", "[::1]:7431", "127.0.0.2"] {
            assert_eq!(status(Method::GET, &[("host", host)])?, 200, "{host}");
            assert_eq!(status(Method::POST, &[("host", host), json])?, 200, "{host}");
        }
        for host in
            ["evil.example", "evil.example:7431", "10.0.0.1:7431", "127.0.0.1.evil.example", "localhost.evil", ""]
        {
            assert_eq!(status(Method::GET, &[("host", host)])?, 400, "{host}");
        }
        assert_eq!(status(Method::GET, &[])?, 400);
        let host = ("host", "localhost:7431");
        assert_eq!(status(Method::POST, &[host])?, 400);
        assert_eq!(status(Method::POST, &[host, ("content-type", "text/plain")])?, 400);
        assert_eq!(status(Method::POST, &[host, json, ("origin", "http://localhost:7431")])?, 200);
        for origin in ["http://evil.example", "null", "http://localhost:80", "localhost:7431"] {
            assert_eq!(status(Method::POST, &[host, json, ("origin", origin)])?, 403, "{origin}");
        }
        Ok(())
    }

    #[test]
    fn elsewhere_a_key_or_a_certificate_says_who_may_look_and_who_may_press_buttons() -> Result {
        let token = Token::new(&"k".repeat(40))?;
        let keys = PageKeys::of(None, Some(&token)).ok_or("no keys")?;
        let porter = porter(Guard::secure(None, Some(&token))?);
        let key = |role| keys.key(role).unwrap_or_default().to_owned();
        let (control, observer) = (key(Role::Control), key(Role::Observer));
        let status = |path: &str, role: Option<Role>, pairs: &[(&'static str, &str)]| {
            let mut pairs = pairs.to_vec();
            pairs.extend([("host", "node-7:7431"), ("content-type", "application/json")]);
            let shown = Shown { from: SocketAddr::from(([10, 0, 0, 9], 5)), role };
            let decided = porter.decide(Some(shown), &Method::POST, path, &headers(&pairs)?);
            Ok::<_, Box<dyn std::error::Error>>(decided.map_or_else(|(status, _)| status.as_u16(), |_| 200))
        };
        let bearer = |key: &str| format!("Bearer {key}");
        let cookie = |key: &str| format!("other=1; {KEY_COOKIE}={key}");
        for path in ["/api/run", "/metrics", "/api/control", "/api/anything"] {
            assert_eq!(status(path, None, &[])?, 401, "{path}");
            assert_eq!(status(path, None, &[("authorization", &bearer("wrong"))])?, 401, "{path}");
            assert_eq!(status(path, None, &[("authorization", &bearer(&control))])?, 200, "{path}");
            assert_eq!(status(path, None, &[("cookie", &cookie(&control))])?, 200, "{path}");
            assert_eq!(status(path, Some(Role::Control), &[])?, 200, "{path}");
            let looks = if path == "/api/control" { 403 } else { 200 };
            for role in [Role::Observer, Role::Trainer] {
                assert_eq!(status(path, Some(role), &[])?, looks, "{path} {role}");
            }
            assert_eq!(status(path, None, &[("authorization", &bearer(&observer))])?, looks, "{path}");
            assert_eq!(status(path, None, &[("cookie", &cookie(&observer))])?, looks, "{path}");
        }
        for path in ["/", "/assets/main.js", "/healthz", "/api/login"] {
            assert_eq!(status(path, None, &[])?, 200, "{path}");
            assert_eq!(status(path, None, &[("cookie", &cookie("of an older run"))])?, 200, "{path}");
        }
        Ok(())
    }
}
