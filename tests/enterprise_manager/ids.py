"""The copy job of these tests, its two links and what they link, and an ID of nothing."""

JOB = "d1b85018-2769-45be-89bc-03f66b60e6cb"
LINK = "27a1d57f-7c15-43c6-9162-d05aff1c9bb9"
OTHER_LINK = "961c9350-dc5a-43d6-8efa-867995e9404e"
UID = "da49abfc-838a-40a1-90a3-40acd2bc7000"
OTHER_UID = "5ef453b0-f3c3-4fe7-be52-2106b6d79ca6"
ABSENT = "00000000-0000-4000-8000-000000000000"
