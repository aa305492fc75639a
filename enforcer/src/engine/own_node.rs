// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether the API server has a Node of this one's name. Under a wrong name all that it says of this node is taken for
//! another's, and nothing else need show it.

/// What somebody should mend, while it has none.
#[derive(Debug, Default)]
pub(super) struct OwnNode {
    warning: Option<String>,
}

impl OwnNode {
    /// `missing` is the node's name, if there is no such Node. It is logged when it was there before.
    pub(super) fn look(&mut self, missing: Option<&str>) {
        let warning = missing.map(|name| {
            format!(
                "the API server has no Node {name:?}: if that is not this node's name, its pods and endpoints are treated as \
                 those of another node; give --node-name (MY_NODE_NAME) the name of this node's Node"
            )
        });
        if let Some(warning) = warning.as_ref()
            && self.warning.is_none()
        {
            tracing::warn!("{warning}");
        }
        self.warning = warning;
    }

    /// What somebody should mend, if anything.
    pub(super) fn warning(&self) -> Option<String> {
        self.warning.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_another_name_is_told_until_there_is_one_of_this() {
        let mut own = OwnNode::default();
        own.look(None);
        assert_eq!(own.warning(), None);
        own.look(Some("nod1"));
        let warning = own.warning().unwrap();
        assert!(
            warning.contains("no Node \"nod1\"") && warning.contains("--node-name"),
            "{warning}"
        );
        own.look(None);
        assert_eq!(own.warning(), None);
    }
}
