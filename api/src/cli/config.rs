//! `ektola config`: the configuration that holds, key by key, and where each value comes from.

use super::context::Context;
use super::output::{Align, Table};

pub fn run(context: &Context) -> anyhow::Result<()> {
    let config = context.load_config()?;
    let settings = config.effective();
    context.out.answer(settings, |out| {
        let mut table = Table::new([("key", Align::Left), ("value", Align::Left), ("source", Align::Left)]);
        for setting in settings {
            table.row([setting.key.clone(), setting.value.to_string(), setting.source.to_string()]);
        }
        out.table(&table)
    })
}
