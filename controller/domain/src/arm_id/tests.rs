use super::*;

const SUB: &str = "00000000-1111-2222-3333-444444444444";

#[test]
fn ids_that_differ_in_case_only_are_the_same_and_show_as_written() {
    let a = ArmId::parse(&format!(
        "/subscriptions/{SUB}/resourceGroups/Prod/providers/Microsoft.Compute/virtualMachines/DB-1"
    ))
    .unwrap();
    let b = ArmId::parse(&format!(
        "/Subscriptions/{SUB}/resourcegroups/PROD/providers/microsoft.compute/virtualmachines/db-1"
    ))
    .unwrap();
    assert_eq!(a, b);
    assert_eq!(a.cmp(&b), Ordering::Equal);
    assert_eq!(a.hash_hex(), b.hash_hex());
    assert_eq!(b.resource_type(), "Microsoft.Compute/virtualMachines");
    assert_eq!((a.name(), a.resource_group(), a.subscription()), ("DB-1", "Prod", SUB));
    assert_eq!(a.to_string(), a.as_str());
    assert_eq!(a.short_hash().len(), 8);
    assert!(a.hash_hex().starts_with(&a.short_hash()));
    assert_eq!(a.group().name(), "Prod");
}

#[test]
fn constructors_build_ids_of_their_type() {
    let group = ArmId::resource_group_id(SUB, "azdr-eastus").unwrap();
    assert_eq!(group.resource_type(), RESOURCE_GROUP_TYPE);
    assert_eq!(group.name(), "azdr-eastus");
    let disk = ArmId::disk(SUB, "rg", "os_disk-1").unwrap();
    assert_eq!(disk.resource_type(), "Microsoft.Compute/disks");
    let net = ArmId::virtual_network(SUB, "rg", "net").unwrap();
    let subnet = net.subnet("default").unwrap();
    assert_eq!(subnet.resource_type(), "Microsoft.Network/virtualNetworks/subnets");
    assert_eq!(subnet.name(), "default");
    assert!(disk.subnet("default").is_err());
}

#[test]
fn nothing_that_could_alter_a_url_is_let_in() {
    let long = "x".repeat(81);
    for name in ["", ".", "..", "a/b", "a?b", "a#b", "a%2f", "a b", "a\\b", "a\nb", "é", &long] {
        assert!(ArmId::disk(SUB, "rg", name).is_err(), "disk {name:?}");
    }
    for group in ["", ".", "..", "a/b", "a/providers/x/y/z", "a?b", "a.", "a b", "a#"] {
        assert!(ArmId::snapshot(SUB, group, "s").is_err(), "group {group:?}");
        assert!(ArmId::resource_group_id(SUB, group).is_err(), "group {group:?}");
    }
    for sub in ["", "a/b", "a b", "..", "x?"] {
        assert!(ArmId::snapshot(sub, "rg", "s").is_err(), "subscription {sub:?}");
    }
}

#[test]
fn what_is_not_a_resource_id_is_refused() {
    for id in [
        "",
        "/",
        "db-1",
        "/subscriptions/s",
        "/subscriptions/s/resourceGroups",
        "/subscriptions/s/resourceGroups/rg/",
        "/subscriptions/s/resourceGroups/rg/providers",
        "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute",
        "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/disks",
        "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/disks/d/",
        "/subscriptions/s/resourceGroups/rg/providers/../disks/d",
        "https://management.azure.com/subscriptions/s/resourceGroups/rg",
    ] {
        assert!(ArmId::parse(id).is_err(), "{id:?}");
    }
}

#[test]
fn types_unknown_to_azdr_parse_too() {
    let id =
        "/subscriptions/s/resourceGroups/(rg).x_1/providers/Microsoft.Sql/servers/a/databases/b";
    let id = ArmId::parse(id).unwrap();
    assert_eq!(id.resource_type(), "Microsoft.Sql/servers/databases");
    assert_eq!(id.name(), "b");
    assert!(ArmId::parse("/subscriptions/s/resourceGroups/größe").is_ok());
}

#[test]
fn an_id_is_a_string_in_json() {
    let id = ArmId::disk(SUB, "rg", "d").unwrap();
    let json = serde_json::to_string(&id).unwrap();
    assert_eq!(json, format!("\"{id}\""));
    assert_eq!(serde_json::from_str::<ArmId>(&json).unwrap(), id);
    assert!(serde_json::from_str::<ArmId>("\"/x\"").is_err());
}

#[test]
fn namespaces_are_words_joined_by_periods() {
    for namespace in ["Microsoft.Compute", "a", "Microsoft.A.B2"] {
        let id = format!("/subscriptions/s/resourceGroups/rg/providers/{namespace}/t/n");
        assert_eq!(ArmId::parse(&id).unwrap().resource_type(), format!("{namespace}/t"));
    }
    for namespace in [".", ".a", "a.", "a..b", "a-b", "a b", "ä"] {
        let id = format!("/subscriptions/s/resourceGroups/rg/providers/{namespace}/t/n");
        assert!(ArmId::parse(&id).is_err(), "{namespace}");
    }
}

#[test]
fn more_segments_than_any_resource_has_are_refused() {
    let of = |pairs: usize| {
        let pairs = "/t/n".repeat(pairs);
        ArmId::parse(&format!("/subscriptions/s/resourceGroups/rg/providers/A.B{pairs}"))
    };
    assert!(of(13).is_ok());
    assert!(of(14).is_err());
    assert!(of(100_000).is_err());
}
