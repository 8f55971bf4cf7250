//! Who may do what: role assignments. A principal without any has all rights.

use serde::{Deserialize, Serialize};

use super::{ArmError, World};

/// Actions that a principal may perform at a scope and below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// `/subscriptions/…`, in any case.
    pub scope: String,
    /// `Microsoft.Compute/snapshots/read`, `*/read`, `*`, … in any case.
    pub actions: Vec<String>,
    /// What of it is not permitted.
    #[serde(default)]
    pub not_actions: Vec<String>,
}

impl Assignment {
    fn permits(&self, action: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|p| matches(&p.to_lowercase(), action));
        any(&self.actions) && !any(&self.not_actions)
    }
}

/// Whether an action is what a pattern with `*` says; both in lower case.
fn matches(pattern: &str, action: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == action,
        Some((before, after)) => action.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && matches(after, &rest[at..]))
        }),
    }
}

/// Whether `scope` is `of` or below it; both in lower case, without a slash at the end.
fn is_within(scope: &str, of: &str) -> bool {
    scope.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl World {
    /// Whether the principal may perform the action on the scope.
    fn may(&self, principal: &str, action: &str, scope: &str) -> bool {
        let Some(assignments) = self.state.assignments.get(principal) else { return true };
        let (action, scope) = (action.to_lowercase(), scope.to_lowercase());
        let reads = action.ends_with("/read");
        assignments.iter().filter(|assignment| assignment.permits(&action)).any(|assignment| {
            let at = assignment.scope.to_lowercase();
            let at = at.trim_end_matches('/');
            // Above what one may read, a listing is answered (with everything, here).
            is_within(&scope, at) || (reads && is_within(at, &scope))
        })
    }

    /// Refuses what the principal has no right to.
    ///
    /// # Errors
    /// 403 `AuthorizationFailed`.
    pub fn check_right(&self, principal: &str, action: &str, scope: &str) -> Result<(), ArmError> {
        if self.may(principal, action, scope) {
            return Ok(());
        }
        Err(ArmError {
            gateway: true,
            ..ArmError::new(
                403,
                "AuthorizationFailed",
                format!(
                    "The client '{principal}' with object id '{principal}' does not have \
                     authorization to perform action '{action}' over scope '{scope}' or the scope \
                     is invalid. If access was recently granted, please refresh your credentials."
                ),
            )
        })
    }

    /// Refuses to use what a request refers to, if the principal has no right to that.
    ///
    /// # Errors
    /// 403 `LinkedAuthorizationFailed`.
    pub fn check_linked_right(
        &self,
        principal: &str,
        action: &str,
        scope: &str,
        linked_action: &str,
        linked: &str,
    ) -> Result<(), ArmError> {
        if self.may(principal, linked_action, linked) {
            return Ok(());
        }
        Err(ArmError {
            gateway: true,
            ..ArmError::new(
                403,
                "LinkedAuthorizationFailed",
                format!(
                    "The client '{principal}' with object id '{principal}' has permission to perform \
                     action '{action}' on scope '{scope}'; however, it does not have permission to \
                     perform action(s) '{linked_action}' on the linked scope(s) '{linked}' \
                     (respectively) or the linked scope(s) are invalid."
                ),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_any_sequence() {
        assert!(matches("*", "a/b/read"));
        assert!(matches("*/read", "a/b/read") && !matches("*/read", "a/b/write"));
        assert!(matches("a/*/action", "a/b/c/action") && !matches("a/*", "b/a/"));
    }

    #[test]
    fn a_scope_reaches_down_to_whole_segments() {
        assert!(is_within("/s/a/b", "/s/a") && is_within("/s/a", "/s/a"));
        assert!(!is_within("/s/ab", "/s/a"));
    }
}
