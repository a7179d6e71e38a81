//! `--explain`: the settings of a command with their origins, and its operations.

use serde_json::{Map, Value, json};

use super::{Context, plan, write};
use crate::cli::{ListFormat, MessageFormat, Verb};
use crate::error::Error;
use crate::settings::ListedSetting;
use crate::text;

/// The least width of the column of keys.
const MIN_KEY_WIDTH: usize = 16;

/// Prints the settings and the operations of a command, and does nothing else.
pub(crate) fn run(mut command: Verb, context: &Context) -> Result<(), Error> {
    let settings = context.settings.listing(&command);
    let is_json = match &mut command {
        Verb::Declare(declare) => declare.output == ListFormat::Json,
        // It is not that of replies here.
        Verb::Send(send) => send.output.take() == Some(MessageFormat::Json),
        Verb::Receive(receive) => receive.output == Some(MessageFormat::Json),
        Verb::Delete(delete) => delete.output == ListFormat::Json,
        Verb::Purge(purge) => purge.output == ListFormat::Json,
    };
    let mut operations = vec![format!("connect to {}", context.settings.broker)];
    operations.extend(plan(command, context)?.operations());
    operations.push("connection.close".to_owned());
    if is_json {
        let settings: Map<_, _> = settings
            .into_iter()
            .map(|setting| {
                let origin = setting.origin.to_string();
                let shown = json!({ "value": setting.value, "origin": origin });
                (setting.key, shown)
            })
            .collect();
        let object = json!({ "settings": settings, "operations": operations });
        return write(&object.to_string());
    }
    let widths = settings.iter().map(|setting| setting.key.len());
    let width = widths.max().unwrap_or_default().max(MIN_KEY_WIDTH);
    for setting in &settings {
        let value = shown(setting);
        write(&format!(
            "{:<width$} {value:<23}  {}",
            setting.key, setting.origin
        ))?;
    }
    write("")?;
    operations.iter().try_for_each(|operation| write(operation))
}

fn shown(setting: &ListedSetting) -> String {
    fn of(value: &Value) -> String {
        match value {
            Value::String(text) if text.is_empty() => "''".to_owned(),
            Value::String(text) => text::escape(text),
            Value::Array(values) => values.iter().map(of).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        }
    }
    match &setting.value {
        Value::Null => setting.absent.to_owned(),
        value => of(value),
    }
}
