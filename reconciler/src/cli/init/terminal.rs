//! A person at a terminal, who is asked line by line. Questions go to standard error: standard output is for results.

use std::io::{self, IsTerminal, Write};
use std::process::{Command, Stdio};

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::InitError;
use crate::secrets::Secret;

/// Somebody to ask, or nobody: then what is missing is kept, to be told at once.
pub struct Ask<'a> {
    person: Option<Person<'a>>,
    missing: Vec<&'static str>,
}

struct Person<'a> {
    says: Box<Lines<'a>>,
    sees: Box<dyn Write + 'a>,
}

/// Appends a line. The real ones are locked for each line only, because others read them too.
type Lines<'a> = dyn FnMut(&mut String) -> io::Result<usize> + 'a;

/// What is asked, and the flag that answers it.
pub struct Question {
    pub flag: &'static str,
    pub text: &'static str,
}

impl<'a> Ask<'a> {
    /// Whoever sits at the terminal, if this is one.
    pub fn terminal() -> Self {
        if io::stdin().is_terminal() && io::stderr().is_terminal() {
            Self::person(|line| io::stdin().read_line(line), io::stderr())
        } else {
            Self::nobody()
        }
    }

    pub fn nobody() -> Self {
        Self {
            person: None,
            missing: Vec::new(),
        }
    }

    pub fn person(
        says: impl FnMut(&mut String) -> io::Result<usize> + 'a,
        sees: impl Write + 'a,
    ) -> Self {
        Self {
            person: Some(Person {
                says: Box::new(says),
                sees: Box::new(sees),
            }),
            missing: Vec::new(),
        }
    }

    pub fn is_somebody_there(&self) -> bool {
        self.person.is_some()
    }

    pub fn is_missing(&mut self, flag: &'static str) {
        self.missing.push(flag);
    }

    pub fn missing(&self) -> &[&'static str] {
        &self.missing
    }

    /// `known`, or what a person answers, until it can be read. `None` where nobody is there.
    pub fn unless<T>(
        &mut self,
        known: Option<T>,
        question: &Question,
        suggestion: Option<&str>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, InitError> {
        if known.is_some() {
            return Ok(known);
        }
        let Some(person) = &mut self.person else {
            self.missing.push(question.flag);
            return Ok(None);
        };
        loop {
            let answer = person.answer(question.text, suggestion)?;
            match read(&answer) {
                Ok(value) => return Ok(Some(value)),
                Err(problem) => writeln!(person.sees, "  {problem}")?,
            }
        }
    }
}

impl Person<'_> {
    fn answer(&mut self, question: &str, suggestion: Option<&str>) -> io::Result<String> {
        let hint = suggestion.map_or_else(String::new, |text| format!(" [{text}]"));
        write!(self.sees, "{question}{hint}: ")?;
        self.sees.flush()?;
        let mut line = String::new();
        is_there((self.says)(&mut line)?)?;
        let answer = line.trim();
        Ok(match suggestion {
            Some(text) if answer.is_empty() => text.to_owned(),
            _ => answer.to_owned(),
        })
    }
}

/// Whether so many bytes are a line of somebody.
fn is_there(bytes: usize) -> io::Result<()> {
    if bytes > 0 {
        return Ok(());
    }
    let gone = "nobody answers any more";
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, gone))
}

/// A line that is not shown while it is typed.
pub async fn hidden(question: &str) -> io::Result<Secret> {
    let echo = Echo::off()?;
    eprint!("{question}: ");
    let (tell, line) = oneshot::channel();
    // A thread of its own: nobody waits for it when the person goes away instead.
    std::thread::spawn(move || {
        let mut line = Zeroizing::new(String::new());
        let read = io::stdin().read_line(&mut line).and_then(is_there);
        tell.send(read.map(|()| Secret::new(line.trim().as_bytes().to_vec())))
            .ok();
    });
    let line = tokio::select! {
        line = line => line.map_err(io::Error::other)?,
        _ = tokio::signal::ctrl_c() => Err(io::ErrorKind::Interrupted.into()),
    };
    drop(echo);
    eprintln!();
    line
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Echo;

impl Echo {
    fn off() -> io::Result<Self> {
        if stty("-echo")? {
            Ok(Self)
        } else {
            Err(io::Error::other("the terminal can't hide what is typed"))
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        stty("echo").ok();
    }
}

fn stty(setting: &str) -> io::Result<bool> {
    let mut stty = Command::new("stty");
    stty.arg(setting).stdin(Stdio::inherit());
    Ok(stty.status()?.success())
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;

    use super::*;

    const COUNT: Question = Question {
        flag: "--count",
        text: "How many",
    };

    fn number(text: &str) -> Result<u32, String> {
        text.parse().map_err(|_| "give a number".to_owned())
    }

    #[test]
    fn a_person_is_asked_until_the_answer_can_be_read() {
        let mut seen = Vec::new();
        let mut lines = "many\n 3 \n\n".as_bytes();
        let mut ask = Ask::person(|line| lines.read_line(line), &mut seen);
        let mut count = || ask.unless(None, &COUNT, Some("2"), number);
        assert_eq!((count().unwrap(), count().unwrap()), (Some(3), Some(2)));
        let gone = count().unwrap_err();
        assert!(gone.to_string().contains("nobody answers"), "{gone}");
        drop(ask);
        let seen = String::from_utf8(seen).unwrap();
        let expected = "How many [2]:   give a number\nHow many [2]: How many [2]: How many [2]: ";
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_is_known_is_not_asked_and_what_nobody_answers_is_missing() {
        let mut ask = Ask::nobody();
        let known = ask.unless(Some(1), &COUNT, None, number);
        assert_eq!(known.unwrap(), Some(1));
        let open = ask.unless(None, &COUNT, None, number);
        assert_eq!(
            (open.unwrap(), ask.missing()),
            (None, ["--count"].as_slice())
        );
    }
}
