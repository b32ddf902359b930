//! When something is told: the newest of what there is, not too often, and again where it could not be written.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::warn;

/// How long what could not be written rests.
const RETRY: Duration = Duration::from_secs(3);

/// After how long an attempt is given up. Each answer has a limit of its own; this is for one whose end never comes.
const LIMIT: Duration = Duration::from_secs(60);

/// One who writes something down for others. It may be stopped at any await, and is asked again then: it remembers of
/// each thing that it was written as soon as it is.
pub trait Teller: Send {
    type News: Clone + Send + Sync;

    /// What it writes, as a log line names it.
    const WHAT: &'static str;

    /// How often it is written at most. Passes that follow one upon the other have less to tell than telling takes.
    const PERIOD: Duration;

    /// Writes what is not written yet.
    fn tell(&mut self, news: &Self::News) -> impl Future<Output = Result<(), kube::Error>> + Send;
}

/// Has the newest of what comes told, until none can come any more.
pub async fn run<T: Teller>(mut teller: T, mut news: watch::Receiver<T::News>) {
    while news.changed().await.is_ok() {
        let newest = news.borrow_and_update().clone();
        let problem = match timeout(LIMIT, teller.tell(&newest)).await {
            Ok(Ok(())) => {
                sleep(T::PERIOD).await;
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it did not end within {LIMIT:?}"),
        };
        warn!(problem, "can't write {}; it is tried again", T::WHAT);
        sleep(RETRY).await;
        news.mark_changed();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::sync::mpsc;

    use super::*;

    enum Answer {
        Written,
        Refused,
        Never,
    }

    /// Says what it is asked to tell, and answers as it was told to.
    struct Scripted {
        answers: VecDeque<Answer>,
        asked: mpsc::UnboundedSender<u32>,
    }

    impl Teller for Scripted {
        type News = u32;
        const WHAT: &'static str = "a number";
        const PERIOD: Duration = Duration::from_secs(2);

        async fn tell(&mut self, news: &u32) -> Result<(), kube::Error> {
            self.asked.send(*news).expect("the test listens");
            match self.answers.pop_front().unwrap_or(Answer::Written) {
                Answer::Written => Ok(()),
                Answer::Refused => Err(kube::Error::LinesCodecMaxLineLengthExceeded),
                Answer::Never => std::future::pending().await,
            }
        }
    }

    fn start(answers: Vec<Answer>) -> (watch::Sender<u32>, mpsc::UnboundedReceiver<u32>) {
        let (news, to_tell) = watch::channel(0);
        let (asked, heard) = mpsc::unbounded_channel();
        let answers = answers.into();
        tokio::spawn(run(Scripted { answers, asked }, to_tell));
        (news, heard)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_within_the_period_is_told_after_it() {
        let (news, mut heard) = start(Vec::new());
        news.send_replace(1);
        assert_eq!(heard.recv().await, Some(1));
        let begun = tokio::time::Instant::now();
        news.send_replace(2);
        news.send_replace(3);
        assert_eq!(heard.recv().await, Some(3));
        assert_eq!(begun.elapsed(), Scripted::PERIOD);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_told_again_unless_there_is_newer() {
        let (news, mut heard) = start(vec![Answer::Refused, Answer::Refused]);
        news.send_replace(1);
        assert_eq!(heard.recv().await, Some(1));
        assert_eq!(heard.recv().await, Some(1));
        news.send_replace(2);
        assert_eq!(heard.recv().await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_ends_is_given_up() {
        let (news, mut heard) = start(vec![Answer::Never]);
        news.send_replace(1);
        assert_eq!(heard.recv().await, Some(1));
        let begun = tokio::time::Instant::now();
        assert_eq!(heard.recv().await, Some(1));
        assert_eq!(begun.elapsed(), LIMIT + RETRY);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nothing_can_come_any_more() {
        let (news, mut heard) = start(Vec::new());
        news.send_replace(1);
        assert_eq!(heard.recv().await, Some(1));
        drop(news);
        assert_eq!(heard.recv().await, None);
    }
}
