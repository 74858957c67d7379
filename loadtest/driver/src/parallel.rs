//! Runs many calls, with a limit on those in progress.

use std::{collections::BTreeMap, future::Future, ops::Range};

use tokio::task::JoinSet;

/// Runs a task for each number, at most `limit` at the same time. The results are in the numbers' order.
///
/// # Errors
/// The first task that failed; the other tasks are dropped.
pub(crate) async fn for_each<T, F>(
    limit: usize,
    numbers: Range<u64>,
    task: impl Fn(u64) -> F,
) -> anyhow::Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let (mut running, mut done) = (JoinSet::new(), BTreeMap::new());
    for number in numbers {
        if running.len() >= limit
            && let Some(ended) = running.join_next().await
        {
            let (number, value): (u64, T) = ended??;
            done.insert(number, value);
        }
        let work = task(number);
        running.spawn(async move { anyhow::Ok((number, work.await?)) });
    }
    while let Some(ended) = running.join_next().await {
        let (number, value) = ended??;
        done.insert(number, value);
    }
    Ok(done.into_values().collect())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use anyhow::ensure;

    use super::*;

    #[tokio::test]
    async fn results_are_in_order_and_the_limit_holds() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let answers = for_each(4, 0..100, |number| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..number % 7 {
                    tokio::task::yield_now().await;
                }
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(number * 2)
            }
        });
        assert_eq!(answers.await.expect("none fails"), (0..100).map(|n| n * 2).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn one_failure_fails_the_whole_call() {
        let failing = |number| async move {
            ensure!(number != 30, "thirty");
            Ok(())
        };
        let error = for_each(4, 0..40, failing).await.expect_err("one fails");
        assert_eq!(error.to_string(), "thirty");
    }
}
