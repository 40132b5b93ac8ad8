//! The keyspace drawn as a tree.
//!
//! The daemon's order is that of bytes, in which `a-b` stands between `a` and `a.b`. So the keys are
//! collected into a tree of segments first, and drawn when all are there.

use std::collections::BTreeMap;

/// One segment: whether it is a key itself (then with what is shown beside it), and what lies below.
#[derive(Default)]
pub(crate) struct Node {
    label: Option<String>,
    children: BTreeMap<String, Node>,
}

impl Node {
    /// Adds a key with the text that is shown beside it.
    pub(crate) fn insert(&mut self, key: &str, label: String) {
        let mut node = self;
        for segment in key.split('.') {
            node = node.children.entry(segment.to_owned()).or_default();
        }
        node.label = Some(label);
    }

    /// Draws everything below, a line a segment.
    pub(crate) fn draw(&self, show: &dyn Fn(&str) -> String) -> String {
        let mut drawing = String::new();
        // Roots have no lines before them.
        for (name, node) in &self.children {
            node.draw_line("", name, show, &mut drawing);
            node.draw_below("", show, &mut drawing);
        }
        drawing
    }

    fn draw_below(&self, indent: &str, show: &dyn Fn(&str) -> String, drawing: &mut String) {
        let mut children = self.children.iter().peekable();
        while let Some((name, node)) = children.next() {
            let (branch, below) = if children.peek().is_some() {
                ("├── ", "│   ")
            } else {
                ("└── ", "    ")
            };
            node.draw_line(&format!("{indent}{branch}"), name, show, drawing);
            node.draw_below(&format!("{indent}{below}"), show, drawing);
        }
    }

    /// Segments that are keys stand out.
    fn draw_line(
        &self,
        before: &str,
        name: &str,
        show: &dyn Fn(&str) -> String,
        drawing: &mut String,
    ) {
        drawing.push_str(before);
        match &self.label {
            Some(label) => {
                drawing.push_str(&show(name));
                drawing.push_str(label);
            }
            None => drawing.push_str(name),
        }
        drawing.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_drawn() {
        let mut root = Node::default();
        for key in ["a", "a-b", "a.b", "a.c.d", "a.c.e", "b.f"] {
            root.insert(key, " 1".to_owned());
        }
        let expected = "\
a 1
├── b 1
└── c
    ├── d 1
    └── e 1
a-b 1
b
└── f 1
";
        assert_eq!(root.draw(&str::to_owned), expected);
        assert_eq!(Node::default().draw(&str::to_owned), "");
    }
}
