//! Lists that come in pages.

use tonic::Status;

use super::refused;
use crate::failure::Failure;

/// All that a list has: `ask` is asked for the page of a token, the first of which is empty, and gives it with the next one's.
pub(crate) async fn every_page<T>(
    mut ask: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Status>,
) -> Result<Vec<T>, Failure> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let (page, next) = ask(token).await.map_err(refused)?;
        all.extend(page);
        if next.is_empty() {
            return Ok(all);
        }
        token = next;
    }
}
