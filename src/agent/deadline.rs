//! Points in time that may not be set.

use tokio::time::{Instant, sleep_until};

/// Sleeps until `at`, or for ever when there is none.
pub(crate) async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
