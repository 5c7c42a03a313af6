//! What a recording shows as an asciicast, version 2 (<https://docs.asciinema.org/manual/asciicast/v2/>), for players of terminal recordings.

use std::time::Duration;

use postern_core::Timestamp;
use serde_json::json;

/// Wide enough for most results; players scroll.
const WIDTH: u32 = 120;
const HEIGHT: u32 = 40;

/// The first line.
pub(crate) fn header(started_at: Timestamp, title: &str, idle: Option<Duration>) -> String {
    let mut header = json!({
        "version": 2, "width": WIDTH, "height": HEIGHT, "timestamp": started_at.secs(), "title": title,
        "env": {"TERM": "xterm-256color"},
    });
    if let (Some(idle), Some(header)) = (idle, header.as_object_mut()) {
        header.insert("idle_time_limit".to_owned(), json!(idle.as_secs_f64()));
    }
    header.to_string()
}

/// A line for what appears at a moment. A terminal wants both ends of a line.
pub(crate) fn frame(at: Duration, text: &str) -> String {
    json!([at.as_secs_f64(), "o", text.replace('\n', "\r\n")]).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_version_2_has_them() {
        let head: serde_json::Value =
            serde_json::from_str(&header(Timestamp::from_secs(7), "ses_1", Some(Duration::from_millis(1_500))))
                .unwrap();
        assert_eq!(
            (&head["version"], &head["timestamp"], &head["idle_time_limit"]),
            (&json!(2), &json!(7), &json!(1.5))
        );
        assert_eq!(frame(Duration::from_millis(250), "a\nb\u{1b}[0m\n"), r#"[0.25,"o","a\r\nb\u001b[0m\r\n"]"#);
        assert!(header(Timestamp::from_secs(7), "x", None).find("idle").is_none());
    }
}
