"""Two devices on one cable find each other's people and public rooms; no name is typed in full."""
from urllib.parse import quote

from client import until


def test_a_neighbour_is_found_by_search_and_its_public_room_in_the_directory(lab):
    a, b = lab.device("a"), lab.device("b")
    lab.cable(a, b)
    a.start(), b.start()
    alice, bob = a.client().register("alice"), b.client().register("bobby")
    bob.raw("PUT", f"/_matrix/client/v3/profile/{quote(bob.user)}/displayname", {"displayname": "Robert the Builder"})
    room = bob.create("12", public=True, name="Harbour café")

    def found_people():
        answer = alice.raw("POST", "/_matrix/client/v3/user_directory/search", {"search_term": "builder"})["body"]
        return [user["user_id"] for user in answer["results"]]

    assert until(found_people, 15, "bob in alice's people search") == [bob.user]

    def found_rooms():
        body = {"filter": {"generic_search_term": "harbour"}}
        return alice.raw("POST", "/_matrix/client/v3/publicRooms", body)["body"]["chunk"]

    rooms = until(found_rooms, 15, "bob's public room in alice's directory")
    assert [entry["room_id"] for entry in rooms] == [room]
    server = bob.user.split(":", 1)[1]
    answer = alice.raw("POST", f"/_matrix/client/v3/join/{quote(room)}?via={server}", {})
    assert answer["status"] == 200, answer
    alice.send(room, "found you")
    bob.wait(room, "found you")


def test_nobody_is_found_where_the_neighbour_does_not_want_to_be(lab):
    a, b = lab.device("a"), lab.device("b")
    lab.cable(a, b)
    a.start()
    b.start("--discoverable", "nobody")
    alice, bob = a.client().register("alice"), b.client().register("bobby")
    shown = b.client("second").register("shown")
    bob.create("12", public=True, name="Secret harbour")
    # The other way shows that lists have been pulled by now.
    until(lambda: shown.raw("POST", "/_matrix/client/v3/user_directory/search", {"search_term": "alice"})["body"]["results"],
          15, "alice in the people search of the hidden node")
    for term in ("bobby", "shown"):
        assert alice.raw("POST", "/_matrix/client/v3/user_directory/search", {"search_term": term})["body"]["results"] == []
    assert alice.raw("POST", "/_matrix/client/v3/publicRooms", {})["body"]["chunk"] == []
