//! Expressions in the jq language over the JSON form of a message.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jaq_core::data::JustLut;
use jaq_core::load::{self, Arena, File, Loader};
use jaq_core::native::{Fun, bome, run, v};
use jaq_core::{Compiler, Ctx, ValT, Vars, compile};
use jaq_json::{Val, read};

use crate::message::{Message, envelope};
use crate::text;

/// The maximum depth of nested arrays and objects in JSON. The reader of jaq is recursive and has no limit, so
/// that a body could overflow the stack.
const MAX_JSON_DEPTH: usize = 1_000;

/// The variable with the environment, as in jq.
const ENVIRONMENT: &str = "$ENV";

/// A compiled expression.
#[derive(Clone)]
pub struct Expression {
    source: String,
    filter: Arc<jaq_core::Filter<JustLut<Val>>>,
}

impl FromStr for Expression {
    type Err = String;

    /// Compiles an expression.
    ///
    /// # Errors
    /// The problem, followed by the expression with a mark under the place.
    fn from_str(source: &str) -> Result<Self, String> {
        if source.trim().is_empty() {
            return Err("the expression is empty".to_owned());
        }
        let definitions = [
            jaq_core::defs().collect::<Vec<_>>(),
            jaq_std::defs().collect(),
            jaq_json::defs().collect(),
        ];
        let arena = Arena::default();
        let file = File {
            code: source,
            path: (),
        };
        let modules = Loader::new(definitions.into_iter().flatten())
            .load(&arena, file)
            .map_err(|errors| describe(source, errors, load_problem))?;
        let filter = Compiler::default()
            .with_funs(functions())
            .with_global_vars([ENVIRONMENT])
            .compile(modules)
            .map_err(|errors| describe(source, errors, compile_problem))?;
        Ok(Self {
            source: source.to_owned(),
            filter: Arc::new(filter),
        })
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.source).finish()
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::quote(self.source.as_bytes()))
    }
}

/// The JSON form of a message, as `-o json` prints it.
#[derive(Clone, Debug)]
pub(crate) struct JsonValue(Val);

impl JsonValue {
    /// Returns the JSON form of a message.
    pub(crate) fn of(message: &Message) -> Result<Self, String> {
        let mut json = Vec::new();
        envelope::write_decoded(message, &mut json).map_err(|error| error.to_string())?;
        parse(&json).map(Self)
    }

    /// Returns the value as a line of JSON.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        self.0.to_string().into_bytes()
    }
}

/// Evaluates expressions.
#[derive(Clone, Debug)]
pub(crate) struct Evaluator {
    environment: Val,
}

impl Evaluator {
    /// Creates an evaluator whose expressions see the environment of the process as `$ENV`.
    pub(crate) fn new() -> Self {
        let text = |text: std::ffi::OsString| Val::utf8_str(text.to_string_lossy().into_owned());
        let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
        Self {
            environment: Val::obj(variables.collect()),
        }
    }

    /// Whether one of the results of an expression is neither `false` nor `null`.
    ///
    /// # Errors
    /// The problem with which the expression failed before such a result.
    pub(crate) fn is_true(
        &self,
        expression: &Expression,
        value: &JsonValue,
    ) -> Result<bool, String> {
        for result in self.run(expression, value.clone()) {
            if result?.0.as_bool() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the result of an expression, if there is one.
    ///
    /// # Errors
    /// The problem with which the expression failed, or that it has several results.
    pub(crate) fn result(
        &self,
        expression: &Expression,
        value: JsonValue,
    ) -> Result<Option<JsonValue>, String> {
        let mut results = self.run(expression, value);
        let first = results.next().transpose()?;
        match results.next().transpose()? {
            None => Ok(first),
            Some(_) => Err("the expression has more than one result".to_owned()),
        }
    }

    fn run<'e>(
        &self,
        expression: &'e Expression,
        value: JsonValue,
    ) -> impl Iterator<Item = Result<JsonValue, String>> + 'e {
        let filter = &*expression.filter;
        let variables = Vars::new([self.environment.clone()]);
        let context = Ctx::<JustLut<Val>>::new(&filter.lut, variables);
        filter.id.run((context, value.0)).map(|result| {
            // `jaq_core::unwrap_valr` would end the process at `halt`.
            result
                .map(JsonValue)
                .map_err(|exception| match exception.get_err() {
                    Ok(error) => describe_error(error),
                    Err(_) => "halt is not supported".to_owned(),
                })
        })
    }
}

/// The longest text of an error. It may quote the whole body.
const MAX_PROBLEM_LENGTH: usize = 200;

fn describe_error(error: jaq_core::Error<Val>) -> String {
    let mut problem = match error.into_val() {
        Val::TStr(text) => String::from_utf8_lossy(&text).into_owned(),
        other => other.to_string(),
    };
    if let Some((end, _)) = problem.char_indices().nth(MAX_PROBLEM_LENGTH) {
        problem.truncate(end);
        problem.push('…');
    }
    text::visible(&problem).into_owned()
}

/// Returns the native functions of the language. Those that read further input are left out.
fn functions() -> impl Iterator<Item = Fun<JustLut<Val>>> {
    let of_json = jaq_json::funs().filter(|(name, ..)| *name != "fromjson");
    let from_json = run(("fromjson", v(0), |(_, value): (_, Val)| {
        bome(value.try_as_utf8_bytes_owned().and_then(|json| {
            parse(&json).map_err(|problem| jaq_core::Error::str(format_args!("{problem}")))
        }))
    }));
    jaq_core::funs()
        .chain(jaq_std::funs())
        .chain(of_json)
        .chain([from_json])
}

/// Parses one value of JSON.
fn parse(json: &[u8]) -> Result<Val, String> {
    if depth(json) > MAX_JSON_DEPTH {
        return Err(format!(
            "cannot parse JSON that is nested more than {MAX_JSON_DEPTH} deep"
        ));
    }
    read::parse_single(json).map_err(|error| format!("cannot parse as JSON: {error}"))
}

/// Returns the maximum depth of nested arrays and objects.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut max) = (0_usize, 0);
    let (mut is_in_string, mut is_escaped) = (false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_in_string => is_escaped = true,
            b'"' => is_in_string = !is_in_string,
            b'[' | b'{' if !is_in_string => {
                depth += 1;
                max = max.max(depth);
            }
            b']' | b'}' if !is_in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    max
}

/// A problem, and the part of the source in which it is.
type Problem<'s> = (String, &'s str);

/// Returns the first problem, with the place marked.
fn describe<'s, E>(
    source: &'s str,
    errors: load::Errors<&'s str, (), E>,
    problem: impl Fn(E) -> Option<Problem<'s>>,
) -> String {
    let found = errors.into_iter().find_map(|(_, error)| problem(error));
    let Some((problem, part)) = found else {
        return "it can't be compiled".to_owned();
    };
    let start = load::span(source, part).start;
    let before = &source[..start];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = source[line_start..].lines().next().unwrap_or_default();
    let column = source[line_start..start].chars().count();
    let line = text::escape(&line.replace('\t', " "));
    format!("{problem}\n\n  {line}\n  {}^", " ".repeat(column))
}

fn load_problem<'s>(error: load::Error<&'s str>) -> Option<Problem<'s>> {
    let found = |expected: &str, part: &'s str, what: &str| {
        let found = if part.trim().is_empty() {
            "the expression ends".to_owned()
        } else {
            format!("there is {what}")
        };
        Some((format!("expected {expected}, but {found}"), part))
    };
    match error {
        load::Error::Io(errors) => {
            let (path, _) = errors.into_iter().next()?;
            Some(("modules can't be imported".to_owned(), path))
        }
        load::Error::Lex(errors) => {
            let (expected, part) = errors.into_iter().next()?;
            match expected {
                load::lex::Expect::Delim(open) => Some((format!("{open} is not closed"), open)),
                load::lex::Expect::Token => Some(("unexpected character".to_owned(), part)),
                expected => found(expected.as_str(), part, "another character"),
            }
        }
        load::Error::Parse(errors) => {
            let (expected, part) = errors.into_iter().next()?;
            found(expected.as_str(), part, "something else")
        }
    }
}

fn compile_problem(errors: Vec<compile::Error<&str>>) -> Option<Problem<'_>> {
    let (name, undefined) = errors.into_iter().next()?;
    let what = match undefined {
        compile::Undefined::Filter(arity) => {
            let arguments = match arity {
                0 => String::new(),
                1 => " with 1 argument".to_owned(),
                _ => format!(" with {arity} arguments"),
            };
            format!("there is no function {name}{arguments}")
        }
        other => format!("there is no {} {name}", other.as_str()),
    };
    Some((what, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(source: &str) -> String {
        source.parse::<Expression>().unwrap_err()
    }

    fn value(json: &str) -> JsonValue {
        JsonValue(parse(json.as_bytes()).unwrap())
    }

    fn is_true(source: &str, json: &str) -> Result<bool, String> {
        Evaluator::new().is_true(&source.parse().unwrap(), &value(json))
    }

    fn result(source: &str, json: &str) -> Result<Option<String>, String> {
        let result = Evaluator::new().result(&source.parse().unwrap(), value(json))?;
        Ok(result.map(|it| String::from_utf8(it.to_json()).unwrap()))
    }

    #[test]
    fn a_message_is_seen_as_json() {
        let message = Message {
            routing_key: "eu".to_owned(),
            body: b"{\"id\":7}".to_vec(),
            ..Message::default()
        };
        let value = JsonValue::of(&message).unwrap();
        let evaluator = Evaluator::new();
        for (source, expected) in [
            (".routing_key == \"eu\"", true),
            (".payload | fromjson | .id == 7", true),
            (".payload | fromjson | .id > 7", false),
            (".properties.headers.shop == \"7\"", false),
            (".payload | test(\"^.{8}$\")", true),
        ] {
            let expression = source.parse().unwrap();
            assert_eq!(
                evaluator.is_true(&expression, &value),
                Ok(expected),
                "{source}"
            );
        }
    }

    #[test]
    fn one_true_result_is_enough() {
        assert_eq!(is_true(".[]", "[false,null,0]"), Ok(true));
        assert_eq!(is_true(".[]", "[false,null]"), Ok(false));
        assert_eq!(is_true(".[]", "[]"), Ok(false));
        assert!(is_true(".a.b", "[]").is_err());
        assert_eq!(is_true("true, error", "[]"), Ok(true));
    }

    #[test]
    fn at_most_one_result_is_used() {
        assert_eq!(
            result(".a += 1", "{\"a\":1}"),
            Ok(Some("{\"a\":2}".to_owned()))
        );
        assert_eq!(result("empty", "1"), Ok(None));
        assert!(result("1, 2", "1").unwrap_err().contains("more than one"));
        assert!(result("halt", "1").unwrap_err().contains("halt"));
        // All digits survive.
        let digits = "[12345678901234567890123,0.1000,1e400]";
        assert_eq!(result(".", digits), Ok(Some(digits.to_owned())));
    }

    #[test]
    fn nothing_that_a_sender_writes_overflows_the_stack() {
        let deep = "[".repeat(10_000_000);
        let body = serde_json::to_string(&deep).unwrap();
        assert!(is_true("fromjson", &body).unwrap_err().contains("deep"));
        let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
        let body = serde_json::to_string(&deep).unwrap();
        assert_eq!(is_true("fromjson", &body), Ok(true));
        let text = serde_json::to_string(&"[{\"\\\\".repeat(5_000)).unwrap();
        assert_eq!(is_true("length > 1", &text), Ok(true));
    }

    #[test]
    fn json_is_one_value() {
        for (body, expected) in [("", false), ("1 2", false), ("x", false), ("1", true)] {
            let body = serde_json::to_string(body).unwrap();
            assert_eq!(is_true("fromjson", &body).is_ok(), expected, "{body}");
        }
    }

    #[test]
    fn the_place_of_a_problem_is_marked() {
        assert_eq!(
            problem(".a = = 7"),
            "expected term, but there is something else\n\n  .a = = 7\n       ^"
        );
        assert_eq!(problem("(.a"), "( is not closed\n\n  (.a\n  ^");
        assert_eq!(
            problem(".a |\n  nothing(1)"),
            "there is no function nothing with 1 argument\n\n    nothing(1)\n    ^"
        );
        assert_eq!(problem("$x"), "there is no variable $x\n\n  $x\n  ^");
        assert_eq!(
            problem(".a && .b"),
            "unexpected character\n\n  .a && .b\n     ^"
        );
        assert_eq!(problem(" "), "the expression is empty");
        assert!(problem(".a ==").starts_with("expected term, but the expression ends"));
        assert!(
            problem("nothing(1; 2)").starts_with("there is no function nothing with 2 arguments")
        );
        assert!(problem("input").starts_with("there is no function input\n"));
    }
}
