//! What it costs, and whether the person wants it.

use std::io::{self, IsTerminal as _, Write as _};

use fabrik_core::id::ClusterName;
use fabrik_core::seed::cost::Bill;

use super::SeedError;
use super::progress::tell;

/// A table of what is ordered, and the sum.
pub fn show(bill: &Bill) -> io::Result<()> {
    let vat = bill.vat_rate.trim_end_matches('0').trim_end_matches('.');
    let with = format!("with {vat} % VAT");
    let currency = &bill.currency;
    tell(format_args!(
        "\n{:<44}{:>10}{:>12}{with:>17}",
        "", "each", "a month"
    ))?;
    for item in &bill.items {
        let what = format!("{} × {}", item.count, item.what);
        let all = item.all();
        tell(format_args!(
            "{what:<44}{:>10}{:>12}{:>17}",
            item.each.net, all.net, all.gross
        ))?;
    }
    let total = bill.total();
    let sum = format!("in all, {currency}");
    tell(format_args!(
        "{sum:<44}{:>10}{:>12}{:>17}",
        "", total.net, total.gross
    ))?;
    tell(
        "By Hetzner's prices of now, and without what Kubernetes will order (load balancers, volumes) and traffic beyond what is \
         included. While images are made, a temporary server is paid by the hour.\n",
    )
}

/// The name that was said before, or is typed at the question now; `None` where nobody can be asked.
pub fn typed(question: &str, said: Option<&str>) -> io::Result<Option<String>> {
    if said.is_some() {
        return Ok(said.map(str::to_owned));
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(None);
    }
    eprint!("{question}: ");
    io::stderr().flush()?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(Some(line.trim().to_owned()))
}

/// Asks for the cluster's name, unless it was said before.
pub fn ask(cluster: &ClusterName, said: Option<&str>) -> Result<(), SeedError> {
    let Some(said) = typed("Go on? Type the cluster's name", said)? else {
        let cluster = cluster.clone();
        return Err(SeedError::NobodyAgrees { cluster });
    };
    if said == cluster.as_str() {
        return Ok(());
    }
    let cluster = cluster.clone();
    Err(SeedError::NotAgreed { cluster, said })
}
