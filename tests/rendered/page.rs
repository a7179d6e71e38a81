//! A page of the manual: clap's options, and prose.

use std::fmt::Write as _;

use clap::Command;
use clap_mangen::Man;
use hello_mq::cli::reference;
use hello_mq::error::Status;
use roff::{Inline, Roff, bold, roman};

/// The day of the last change to the manual.
pub const DATE: &str = "2026-11-25";

/// How long a line of a page's source may be.
const WIDTH: usize = 79;

/// A page that is being written.
pub struct Page {
    text: String,
}

impl Page {
    /// A page, with the title that its footer and header show.
    pub fn new(title: &str, section: &str) -> Self {
        let mut page = Self {
            text: String::new(),
        };
        let source = concat!("hello-mq ", env!("CARGO_PKG_VERSION"));
        let mut roff = Roff::new();
        let title = title.to_uppercase();
        roff.control(
            "TH",
            [title.as_str(), section, DATE, source, "hello-mq's manual"],
        );
        page.add(&roff);
        page
    }

    /// The page's source, in short lines.
    pub fn finish(self) -> String {
        let mut page = String::new();
        let mut is_literal = false;
        for line in self.text.lines() {
            match line {
                ".nf" => is_literal = true,
                ".fi" => is_literal = false,
                _ => {}
            }
            if is_literal || line.starts_with('.') || line.len() <= WIDTH {
                page += line;
            } else {
                page += &wrapped(line);
            }
            page.push('\n');
        }
        page
    }

    fn add(&mut self, roff: &Roff) {
        self.text += &roff.to_roff();
    }

    pub fn heading(&mut self, heading: &str) {
        let mut roff = Roff::new();
        roff.control("SH", [heading]);
        self.add(&roff);
    }

    pub fn subheading(&mut self, heading: &str) {
        let mut roff = Roff::new();
        roff.control("SS", [heading]);
        self.add(&roff);
    }

    pub fn paragraph(&mut self, text: &str) {
        let mut roff = Roff::new();
        if !self.is_begun() {
            roff.control("PP", []);
        }
        roff.text(inlines(text));
        self.add(&roff);
    }

    /// Whether nothing stands behind the last heading.
    fn is_begun(&self) -> bool {
        let last = self.text.lines().last().unwrap_or_default();
        last.starts_with(".SH") || last.starts_with(".SS")
    }

    /// A line of text.
    pub fn line(&mut self, text: Vec<Inline>) {
        let mut roff = Roff::new();
        roff.text(text);
        self.add(&roff);
    }

    /// A term, and what it means.
    pub fn item(&mut self, term: &str, meaning: &str) {
        self.terms(&[term], meaning);
    }

    /// Several terms that one text explains.
    pub fn terms(&mut self, terms: &[&str], meaning: &str) {
        let mut roff = Roff::new();
        for (number, term) in terms.iter().enumerate() {
            roff.control(if number == 0 { "TP" } else { "TQ" }, []);
            roff.text([bold(*term)]);
        }
        roff.text(inlines(meaning));
        self.add(&roff);
    }

    /// Lines that stay as they are.
    pub fn literal(&mut self, lines: &[&str]) {
        let mut roff = Roff::new();
        if !self.is_begun() {
            roff.control("PP", []);
        }
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        for line in lines {
            roff.text([roman(*line)]);
        }
        roff.control("fi", []);
        roff.control("RE", []);
        self.add(&roff);
    }

    /// Prose: paragraphs, `# HEADING`s, and blocks that are indented by four blanks.
    pub fn prose(&mut self, prose: &str) {
        for block in prose.trim().split("\n\n") {
            if let Some(heading) = block.strip_prefix("# ") {
                self.heading(heading);
            } else if block.starts_with("    ") {
                let lines: Vec<_> = block.lines().map(|line| &line[4..]).collect();
                self.literal(&lines);
            } else {
                self.paragraph(block);
            }
        }
    }

    /// The options of a command, in groups as its help has them.
    pub fn options(&mut self, command: &Command) {
        let mut text = Vec::new();
        // A page has the help of every option, also of those that a short help leaves out; and that
        // names the words which the option takes.
        let whole = command
            .clone()
            .mut_args(|argument| argument.hide_short_help(false).hide_possible_values(true));
        Man::new(whole).render_options_section(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let headings: Vec<_> = command
            .get_arguments()
            .filter_map(|argument| argument.get_help_heading())
            .collect();
        if !text.lines().any(|line| line == ".SH OPTIONS") {
            self.heading("OPTIONS");
        }
        for line in text.lines() {
            // Groups are parts of one section.
            let group = headings.iter().find(|heading| {
                let capitals = heading.to_uppercase();
                line == format!(".SH {capitals}") || line == format!(".SH \"{capitals}\"")
            });
            match group {
                Some(group) => self.subheading(group),
                None => writeln!(self.text, "{line}").unwrap(),
            }
        }
    }

    pub fn examples(&mut self, examples: &str) {
        self.heading("EXAMPLES");
        let lines: Vec<_> = examples.lines().skip(1).map(str::trim_start).collect();
        self.literal(&lines);
    }

    pub fn environment(&mut self) {
        self.heading("ENVIRONMENT");
        for (name, meaning) in reference::ENVIRONMENT {
            self.item(name, meaning);
        }
    }

    pub fn files(&mut self) {
        self.heading("FILES");
        for (name, meaning) in reference::FILES {
            self.item(name, meaning);
        }
    }

    pub fn exit_statuses(&mut self) {
        self.heading("EXIT STATUS");
        self.paragraph("The exit statuses are those of sysexits.h, as rabbitmqctl's are.");
        for (status, meaning) in Status::MEANINGS {
            self.item(&status.code().to_string(), meaning);
        }
    }

    /// Other pages, by name and section.
    pub fn see_also(&mut self, pages: &[(String, &str)]) {
        self.heading("SEE ALSO");
        let mut line = Vec::new();
        for (number, (name, section)) in pages.iter().enumerate() {
            if number > 0 {
                line.push(roman(", "));
            }
            line.push(bold(name));
            line.push(roman(format!("({section})")));
        }
        self.line(line);
    }
}

/// A line of text as several.
fn wrapped(line: &str) -> String {
    let mut lines = String::new();
    let mut length = 0;
    for word in line.split(' ') {
        if length > 0 && length + 1 + word.len() > WIDTH {
            lines.push('\n');
            length = 0;
            if word.starts_with(['.', '\'']) {
                // It would be a request.
                lines += r"\&";
            }
        } else if length > 0 {
            lines.push(' ');
            length += 1;
        }
        lines += word;
        length += word.len();
    }
    lines
}

/// A text in which what stands between backticks is bold.
fn inlines(text: &str) -> Vec<Inline> {
    let text = text.replace('\n', " ");
    text.split('`')
        .enumerate()
        .filter(|(_, part)| !part.is_empty())
        .map(|(number, part)| {
            if number % 2 == 1 {
                bold(part)
            } else {
                roman(part)
            }
        })
        .collect()
}
