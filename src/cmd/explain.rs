//! `--explain`: each setting with where it comes from, and the operations that would follow.

use serde_json::{Map, Value, json};

use super::{Context, declare, delete, purge, receive, send, write};
use crate::cli::{ListFormat, MessageFormat, Verb};
use crate::error::Error;
use crate::settings::ListedSetting;
use crate::text;

/// Prints the settings of a command and what it would do, and does nothing else.
///
/// # Errors
/// Those of the command that are seen without a broker and without input; [`Error::Output`].
pub fn run(command: Verb, context: &Context) -> Result<(), Error> {
    let lines = context.settings.listing(&command);
    let is_json = match &command {
        Verb::Declare(declare) => declare.output == ListFormat::Json,
        Verb::Send(send) => send.output == Some(MessageFormat::Json),
        Verb::Receive(receive) => receive.output == Some(MessageFormat::Json),
        Verb::Delete(delete) => delete.output == ListFormat::Json,
        Verb::Purge(purge) => purge.output == ListFormat::Json,
    };
    let mut operations = vec![format!("connect to {}", context.settings.broker)];
    operations.extend(match command {
        Verb::Declare(arguments) => declare::operations(*arguments, context)?,
        Verb::Send(arguments) => send::operations(&arguments, context)?,
        Verb::Receive(arguments) => receive::operations(&arguments, context)?,
        Verb::Delete(arguments) => delete::operations(&arguments, context)?,
        Verb::Purge(_) => purge::operations(context)?,
    });
    operations.push("connection.close".to_owned());
    if is_json {
        let settings: Map<_, _> = lines
            .into_iter()
            .map(|line| {
                let origin = line.origin.to_string();
                let shown = json!({ "value": line.value, "origin": origin });
                (line.key.to_owned(), shown)
            })
            .collect();
        let object = json!({ "settings": settings, "operations": operations });
        return write(&object.to_string());
    }
    for line in &lines {
        let value = shown(line);
        write(&format!("{:<16} {value:<23}  {}", line.key, line.origin))?;
    }
    write("")?;
    for operation in operations {
        write(&operation)?;
    }
    Ok(())
}

fn shown(line: &ListedSetting) -> String {
    fn of(value: &Value) -> String {
        match value {
            Value::String(text) if text.is_empty() => "''".to_owned(),
            Value::String(text) => text::escape(text),
            Value::Array(values) => values.iter().map(of).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        }
    }
    match &line.value {
        Value::Null => line.absent.to_owned(),
        value => of(value),
    }
}
