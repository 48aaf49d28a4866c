use proptest::prelude::*;

use super::*;
use crate::source::documents::read_behind;

fn pieces(text: &[u8], size: usize) -> Result<Vec<Piece>> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    let mut pieces = Pieces::of_size(file.path(), size)?;
    std::iter::from_fn(|| pieces.next().transpose()).collect()
}

#[test]
fn a_file_without_content_is_one_piece() {
    let piece = Piece { lines_before: 0, text: String::new(), last: true };
    assert_eq!(pieces(b"", 8).unwrap(), [piece]);
}

#[test]
fn a_file_is_cut_before_markers_only() {
    let found = pieces(b"a: ---\n--- \nb: 1\n---x: 1\n---\n", 4).unwrap();
    let found: Vec<_> = found.iter().map(|piece| (piece.lines_before, piece.text.as_str(), piece.last)).collect();
    let whole: String = found.iter().map(|(_, text, _)| *text).collect();
    assert_eq!(whole, "a: ---\n--- \nb: 1\n---x: 1\n---\n");
    assert_eq!(found[0], (0, "a: ---\n", false));
    assert!(found[1..].iter().all(|(lines, text, _)| *lines > 0 && text.starts_with("---") && &text[3..4] != "x"));
}

#[test]
fn what_is_not_utf_8_is_an_error_and_the_end() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"a: 1\n---\n\xff\n---\nb: 1\n").unwrap();
    let mut pieces = Pieces::of_size(file.path(), 9).unwrap();
    let mut found = std::iter::from_fn(|| pieces.next().transpose());
    let errors = found.by_ref().filter(|piece| piece.is_err()).count();
    assert_eq!(errors, 1);
}

proptest! {
    /// However a text is cut, its documents are the same, in the same lines.
    #[test]
    fn pieces_have_the_documents_of_the_whole(
        parts in proptest::collection::vec(0..12_usize, 0..30),
        size in 1..40_usize,
    ) {
        const PARTS: [&str; 12] = [
            "---\n", "---", "--- # remark\n", "---\r\n", "\n", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n",
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n", "broken: [\n", "text: |\n  ---\n", "---x\n",
            "# remark\n", "\u{e9}: \u{1f980}\n",
        ];
        let text: String = parts.iter().map(|part| PARTS[*part]).collect();
        let shown = |line: usize, text: &str| -> Vec<String> {
            read_behind(line, text).iter().map(|document| format!("{document:?}")).collect()
        };
        let pieces = pieces(text.as_bytes(), size).unwrap();
        let cut: Vec<_> = pieces.iter().flat_map(|piece| shown(piece.lines_before, &piece.text)).collect();
        prop_assert_eq!(cut, shown(0, &text));
        prop_assert!(pieces.iter().all(|piece| piece.last == std::ptr::eq(piece, pieces.last().unwrap())));
    }
}
