//! How requests of OAuth's endpoints are read, for whoever tries to break it: the fuzz targets.

use axum::body::Body;
use axum::extract::{Form, FromRequest as _};
use futures::FutureExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request};
use postern_core::scope::Scope;

use super::answer::Problem;
use super::form::{Params, Posted};

/// The reader of forms.
#[derive(Debug)]
pub struct FormProbe;

impl FormProbe {
    /// The scope that a request for a token asks for in `body`, by whichever of the grants; `None`: it is refused.
    #[must_use]
    pub fn asked(body: &[u8]) -> Option<Scope> {
        let read = || Params::read(posted(body)?);
        let answered = |problem: Problem| drop(problem.answer());
        let _ = read().and_then(|params| params.client().map(str::len)).map_err(answered);
        let granted = read().and_then(Params::granted).map_err(answered).map(|granted| granted.wanted.scope);
        let exchanged = read().and_then(Params::exchange).map_err(answered).map(|ask| ask.wanted.scope);
        granted.or(exchanged).ok()
    }
}

fn posted(body: &[u8]) -> Result<Posted, Problem> {
    let mut request = Request::post("/oauth/token").body(Body::from(body.to_vec())).unwrap_or_default();
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers_mut().insert(CONTENT_TYPE, form);
    // All of it is there.
    Form::from_request(request, &()).now_or_never().ok_or_else(|| Problem::request("the body does not come"))
}
