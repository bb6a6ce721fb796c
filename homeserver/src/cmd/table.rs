//! What `ctl` and `account` print: JSON as lines that a person reads.

use std::fmt::Write as _;

use serde_json::Value;

/// A list of objects as a table with a head, an object as `key: value` lines, anything else as it is.
pub(super) fn render(value: &Value) -> String {
    match value {
        Value::Array(rows) if rows.is_empty() => "none\n".into(),
        Value::Array(rows) if rows.iter().all(Value::is_object) => table(rows),
        Value::Array(rows) => rows.iter().map(|row| cell(row) + "\n").collect(),
        Value::Object(fields) => {
            let width = fields.keys().map(String::len).max().unwrap_or(0);
            fields.iter().fold(String::new(), |mut out, (key, value)| {
                let _ = writeln!(out, "{:width$}  {}", key.replace('_', " "), cell(value));
                out
            })
        }
        other => cell(other) + "\n",
    }
}

fn table(rows: &[Value]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for key in rows.iter().filter_map(Value::as_object).flat_map(|row| row.keys()) {
        if !columns.contains(&key.as_str()) {
            columns.push(key);
        }
    }
    let mut lines = vec![columns.iter().map(|name| name.replace('_', " ")).collect::<Vec<_>>()];
    lines.extend(
        rows.iter()
            .map(|row| columns.iter().map(|name| row.get(name).map(cell).unwrap_or_default()).collect()),
    );
    let widths: Vec<usize> = (0..columns.len())
        .map(|i| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0))
        .collect();
    lines.iter().fold(String::new(), |mut out, line| {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(text, width)| format!("{text:width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
        out
    })
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::render;

    #[test]
    fn lists_are_tables_and_objects_are_lines() {
        assert_eq!(
            render(&json!([{"key": "ab", "up": true}, {"key": "c", "rtt_ms": 1.5}])),
            "key  up   rtt ms\nab   yes\nc         1.5\n"
        );
        assert_eq!(render(&json!({"a": "x", "bcd": null})), "a    x\nbcd  -\n");
        assert_eq!(render(&json!([])), "none\n");
    }
}
