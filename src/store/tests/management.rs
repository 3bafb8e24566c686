//! What the API changes at run time: sub-accounts, tokens, virtual numbers; and creates that come twice.

use super::*;
use crate::store::sql::counted;

on_both!(tokio::test:
    sub_accounts_come_change_and_go,
    numbers_come_change_and_go,
    a_key_makes_one_session_for_a_day,
    a_number_that_drains_elsewhere_takes_nothing_here,
    thousands_of_numbers_come_by_hundreds_of_statements,
);

pub(super) fn new_number(index: usize) -> NewNumber {
    NewNumber {
        did: did(index),
        trunk: "local".into(),
        subaccount: None,
        no_session: NoSession::Reject,
        draining: false,
    }
}

async fn sub_accounts_come_change_and_go(database: &Database) {
    let store = Store::open_with_key(&database.url(), SealKey::draw()).await.unwrap();
    let made = store.ensure_account(&[], at(0)).await.unwrap().unwrap();
    assert_eq!(store.auth_token(&made.auth_id).unwrap().reveal(), made.auth_token);
    let (sub, token) =
        store.create_subaccount(&made.auth_id, "one".into(), true, at(0)).await.unwrap().unwrap();
    let identity = Identity { account: made.auth_id.clone(), subaccount: Some(sub.auth_id.clone()) };
    assert_eq!(store.identify(&sub.auth_id, token.reveal(), at(1)), Some(identity));
    assert_eq!(store.auth_token(&sub.auth_id), Some(token.clone()));
    assert_eq!(store.subaccount("MAOTHER", &sub.auth_id), None);

    let change = store.update_subaccount(&made.auth_id, &sub.auth_id, Some("two".into()), None, at(2));
    assert_eq!(change.await.unwrap(), Ok(()));
    let changed = Subaccount { name: "two".into(), modified_at: Some(at(2)), ..sub.clone() };
    assert_eq!(store.subaccounts(&made.auth_id), [changed]);
    for subaccount in [None, Some(sub.auth_id.as_str())] {
        let who = subaccount.unwrap_or(&made.auth_id);
        let old = store.auth_token(who).unwrap();
        let new = store.rotate_token(&made.auth_id, subaccount, HOUR, at(10)).await.unwrap().unwrap();
        assert_eq!(store.auth_token(who), Some(new.clone()));
        for (token, moment, opens) in [(&old, 3609, true), (&old, 3610, false), (&new, 3610, true)] {
            assert_eq!(store.identify(who, token.reveal(), at(moment)).is_some(), opens, "{who}");
        }
    }
    let other = store.rotate_token("MAOTHER", Some(&sub.auth_id), HOUR, at(10)).await.unwrap();
    assert_eq!(other, Err(AccountRefusal::NotFound));

    let own = NewNumber { subaccount: Some(sub.auth_id.clone()), ..new_number(0) };
    assert_eq!(store.add_number(&made.auth_id, own, at(0)).await.unwrap(), Ok(()));
    let refused = store.delete_subaccount(&made.auth_id, &sub.auth_id).await.unwrap();
    assert_eq!(refused, Err(AccountRefusal::HasNumbers));
    assert_eq!(store.remove_number(&made.auth_id, &did(0), false, at(0)).await.unwrap(), Ok(()));
    assert_eq!(store.delete_subaccount(&made.auth_id, &sub.auth_id).await.unwrap(), Ok(()));
    assert_eq!(store.identify(&sub.auth_id, token.reveal(), at(1)), None);
    let again = store.delete_subaccount(&made.auth_id, &sub.auth_id).await.unwrap();
    assert_eq!(again, Err(AccountRefusal::NotFound));
}

async fn numbers_come_change_and_go(database: &Database) {
    let store = store(database, 1).await;
    assert_eq!(store.add_number(ACCOUNT, new_number(1), at(0)).await.unwrap(), Ok(()));
    assert_eq!(store.add_number(ACCOUNT, new_number(1), at(0)).await.unwrap(), Err(NumberRefusal::Taken));
    let made = create(&store, wanted(1, 2), at(0)).await.unwrap();
    assert_eq!(made.virtual_number, did(0), "configured ones first");
    assert_eq!(create(&store, wanted(1, 2), at(0)).await.unwrap().virtual_number, did(1));
    assert_eq!(store.active_sessions_on(&did(1), at(1)).await.unwrap(), 1);
    let party_number = NewNumber { did: Did::parse(party(1).digits()).unwrap(), ..new_number(9) };
    assert_eq!(store.add_number(ACCOUNT, party_number, at(1)).await.unwrap(), Err(NumberRefusal::Taken));

    let wrong = NewNumber { trunk: "other".into(), ..new_number(0) };
    let unknown = NewNumber { subaccount: Some("SAX".into()), ..new_number(3) };
    let file = vec![new_number(2), wrong, new_number(1), unknown];
    let refused = store.import_numbers(ACCOUNT, file, at(1)).await.unwrap();
    assert_eq!(refused, [(1, NumberRefusal::Configured), (3, NumberRefusal::UnknownSubaccount)]);
    assert_eq!(store.numbers(ACCOUNT).len(), 2, "nothing of it is taken");
    let draining = NewNumber { draining: true, ..new_number(1) };
    let taken = store.import_numbers(ACCOUNT, vec![new_number(2), draining], at(1)).await.unwrap();
    assert_eq!(taken, []);
    let shown: Vec<_> =
        store.numbers(ACCOUNT).into_iter().map(|entry| (entry.number.did, entry.draining)).collect();
    assert_eq!(shown, [(did(0), false), (did(1), true), (did(2), false)]);

    let change = NumberChange { trunk: Some("other".into()), draining: Some(false), ..Default::default() };
    assert_eq!(store.change_number(ACCOUNT, &did(1), change.clone()).await.unwrap(), Ok(()));
    let changed = store.number(ACCOUNT, &did(1)).unwrap();
    assert_eq!((changed.number.trunk.as_str(), changed.draining), ("other", false));
    let refused = store.change_number(ACCOUNT, &did(0), change.clone()).await.unwrap();
    assert_eq!(refused, Err(NumberRefusal::Configured));
    let refused = store.change_number("MAOTHER", &did(1), change).await.unwrap();
    assert_eq!(refused, Err(NumberRefusal::NotFound));
    let remove = async |force| store.remove_number(ACCOUNT, &did(1), force, at(1)).await.unwrap();
    assert_eq!((remove(false).await, remove(true).await), (Err(NumberRefusal::InUse), Ok(())));
    let moved = store.add_number("MAOTHER", new_number(1), at(1)).await.unwrap();
    assert_eq!(moved, Err(NumberRefusal::Taken), "sessions of another account are on it");
}

async fn thousands_of_numbers_come_by_hundreds_of_statements(database: &Database) {
    let store = store(database, 1).await;
    let (sub, _) = store.create_subaccount(ACCOUNT, "one".into(), true, at(0)).await.unwrap().unwrap();
    let number = |index: usize| NewNumber {
        did: Did::parse(&format!("1303{index:07}")).unwrap(),
        subaccount: index.is_multiple_of(3).then(|| sub.auth_id.clone()),
        draining: index.is_multiple_of(5),
        ..new_number(index)
    };
    let file: Vec<_> = (0..5000).map(number).collect();
    let mut wrong = file.clone();
    wrong[4321].subaccount = Some("SAX".into());
    wrong[4999].did = did(0);
    wrong[4999].trunk = "other".into();
    counted::take();
    let refused = store.import_numbers(ACCOUNT, wrong, at(0)).await.unwrap();
    assert_eq!(refused, [(4321, NumberRefusal::UnknownSubaccount), (4999, NumberRefusal::Configured)]);
    assert_eq!(store.numbers(ACCOUNT).len(), 1, "all or nothing");
    for round in ["new", "again"] {
        assert_eq!(store.import_numbers(ACCOUNT, file.clone(), at(0)).await.unwrap(), []);
        let entries = store.numbers(ACCOUNT);
        assert_eq!(entries.len(), 5001, "{round}");
        for (entry, new) in entries[1..].iter().zip(&file) {
            assert_eq!(entry.number.did, new.did, "in the order of the file");
            assert_eq!((&entry.subaccount, entry.draining), (&new.subaccount, new.draining));
        }
    }
    let (statements, transactions) = counted::take();
    assert!(statements < 1500, "{statements} statements for three files of 5000 numbers");
    assert_eq!(transactions, 3);
}

async fn a_key_makes_one_session_for_a_day(database: &Database) {
    let store = store(database, 3).await;
    let key = |fingerprint| IdempotencyKey { scope: ACCOUNT.into(), key: "k".into(), fingerprint };
    let make = async |fingerprint, moment| {
        store.create_session_once(wanted(1, 2), Some(key(fingerprint)), at(moment)).await.unwrap().unwrap()
    };
    let Creation::New(first) = make([1; 32], 0).await else { panic!("it is the first") };
    assert_eq!(make([1; 32], 86_399).await, Creation::Again(first));
    assert_eq!(make([2; 32], 86_399).await, Creation::Mismatch);
    assert!(matches!(make([2; 32], 86_400).await, Creation::New(_)));
    assert!(matches!(make([2; 32], 86_401).await, Creation::Again(_)));
}

async fn a_number_that_drains_elsewhere_takes_nothing_here(database: &Database) {
    let store = store(database, 2).await;
    // As another process would, so that what is in memory here is old.
    store.write(Run("UPDATE numbers SET draining = 1 WHERE did = '12025550100'")).await.unwrap();
    assert_eq!(number_of(&store, wanted(1, 2), at(0)).await, Ok(did(1)));
    store.write(Run("UPDATE numbers SET active = 0 WHERE did = '12025550101'")).await.unwrap();
    assert_eq!(number_of(&store, wanted(3, 4), at(0)).await, Err(Refusal::Exhausted));
}
